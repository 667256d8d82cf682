package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
)

// Network is how a node reaches the other members. Members are addressed by
// name; the network knows, or learns, where they listen.
type Network interface {
	// Transport carries Raft's own messages. A raft.ServerAddress is a node name.
	Transport() raft.Transport
	// Peer is the link to a member for forwarded commands and calls. It is cheap
	// and does not connect.
	Peer(name string) Peer
	// Crashed names a member whose connection ended and whose port takes no new
	// ones: its process is dead, while its host may be alive. A hint, which
	// may be late or wrong. The channel is never closed.
	Crashed() <-chan string
	// Learn tells where a member listens.
	Learn(name, addr string)
}

// Peer is the link to one member.
type Peer interface {
	// Start forwards a command, with the contract of [parley.Service]. At the
	// other end it reaches [Node.Local].
	Start(ctx context.Context, r parley.Request, done func(parley.Result, error))
	// Call asks something between members. At the other end it reaches
	// [Node.HandleCall].
	Call(ctx context.Context, method string, body []byte) ([]byte, error)
}

// Config says how to open a Node.
type Config struct {
	Name string // node name, as in its certificate. Required
	Dir  string // data directory; it is created when missing. Required

	ClientAddr string // host:port at which clients reach this node; told to the others
	PeerAddr   string // host:port at which members reach this node; told to the others

	// Members are the names of all first members of a new cluster, this node
	// among them, the same on each. Once the cluster exists they only tell whom
	// to ask.
	Members []string
	// Join says that a node without data is to be added to an existing cluster,
	// which it finds through Members. It means nothing to a node with data.
	Join bool

	// LogStore is where the log is. It cannot change while there is data but by
	// [ConvertLog]. Default [LogBolt].
	LogStore LogStore

	LogStageBytes int64 // with LogBolt: size of the file that takes the newest entries, and about what of them is in memory; default 16 MiB

	Network Network    // how to reach the others. Required
	Limits  fsm.Limits // quotas that this node proposes when it leads; zero fields mean the defaults of fsm.Limits

	SessionIdle time.Duration // sessions unused for longer expire; default 1 h, must exceed what clients retry for

	HeartbeatTimeout time.Duration // without a word from the leader before an election, for an election, and of a leader's lease; default 250 ms; raise it when hosts or disks stall longer
	CommitTimeout    time.Duration // time after which Raft repeats to followers what is committed; default 250 ms
	DiskTimeout      time.Duration // longest that one operation on the log may take before the node counts as damaged; default 5 s
	ProposeTimeout   time.Duration // longest that an entry waits for Raft to take it; default 1 s
	SnapshotInterval time.Duration // how often the log is considered for truncation; default 15 s

	QueueCommands int    // commands waiting for the log beyond which more are refused; default 16384
	QueueBytes    int    // bytes of them; default 32 MiB
	BatchCommands int    // most commands in one log entry; default 1024
	BatchBytes    int    // an entry takes no more commands once it has this many bytes; default 256 KiB
	InFlight      int    // most entries proposed and not yet committed; default 4; all but one are full ones
	TrailingLogs  uint64 // entries kept behind a checkpoint for followers that lag; default 10240, see MinTrailingLogs

	Watches int // most watches of one mailbox on this node; default 128
	Lists   int // most pages of names that are computed at a time; default half of the processors, at least 1

	CheckpointBytes int64         // as in fsm.Config; default 32 MiB
	DirtyBytes      int64         // MaxDirtyBytes of fsm.Config; default 256 MiB
	ReplayBytes     int64         // as in fsm.Config; default 256 MiB
	CheckpointEvery time.Duration // as in fsm.Config; default 30 s

	// Warnings are what operators should know about this node, such as a certificate
	// that is about to end; every member's are in the Detail of a [parley.Status].
	// Default: none.
	Warnings func() []string

	Logger  *slog.Logger          // default: discard
	Metrics prometheus.Registerer // default: none
}

// MinTrailingLogs is the least that a cluster should keep: more than Raft's
// SnapshotThreshold, and far more than a leader can leave behind uncommitted. With
// less, a follower that needs a snapshot can need another one by the time it has it
// (hashicorp/raft #697). Simulated clusters keep less, to have snapshots at all.
const (
	MinTrailingLogs   = 10240
	snapshotThreshold = 8192
)

// maxAppendEntries is how many entries one message carries at most, which is at
// the same time its limit in bytes: about BatchBytes each. See docs/adr/0011.
const maxAppendEntries = 128

func (c Config) withDefaults() Config {
	def(&c.SessionIdle, time.Hour)
	def(&c.HeartbeatTimeout, 250*time.Millisecond)
	def(&c.CommitTimeout, 250*time.Millisecond)
	def(&c.DiskTimeout, 5*time.Second)
	def(&c.ProposeTimeout, time.Second)
	def(&c.SnapshotInterval, 15*time.Second)
	def(&c.QueueCommands, 16384)
	def(&c.QueueBytes, 32<<20)
	def(&c.BatchCommands, 1024)
	def(&c.BatchBytes, 256<<10)
	def(&c.InFlight, 4)
	def(&c.Watches, 128)
	def(&c.Lists, max(1, min(runtime.GOMAXPROCS(0), runtime.NumCPU())/2))
	def(&c.TrailingLogs, MinTrailingLogs)
	c.BatchCommands = min(c.BatchCommands, fsm.MaxOps)
	c.Limits = c.Limits.WithDefaults()
	def(&c.LogStore, LogBolt)
	if len(c.Members) == 0 {
		c.Members = []string{c.Name}
	}
	if c.Warnings == nil {
		c.Warnings = func() []string { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (c Config) validate() error {
	switch {
	case c.Name == "":
		return errors.New("node: Config.Name is empty")
	case c.Dir == "":
		return errors.New("node: Config.Dir is empty")
	case c.LogStore != "" && !c.LogStore.Valid():
		return fmt.Errorf("node: Config.LogStore is %q", c.LogStore)
	case c.Network == nil:
		return errors.New("node: Config.Network is nil")
	}
	return nil
}
