// Package node is a member of the cluster: it keeps the replicated log on disk,
// puts commands into it, applies it to the state machine and answers from that.
//
// What runs, from Open to Shutdown, each file having the details:
//
//	Raft           its own goroutines, on node/internal/store and node/internal/link
//	proposer       one goroutine makes log entries, one answers the commands in them (propose.go)
//	notices        tell followers what is committed when no entry follows (notice.go)
//	readers        one round at a time finds the index that reads must wait for (read.go)
//	hub            no goroutine: the state machine's tells watchers of new mail (hub.go)
//	follow         notices who leads, announces this node, learns addresses (leader.go)
//	lead           what a leader keeps in order: limits, members, learners, sessions (duties.go)
//	boot           bootstraps or joins, then ends (boot.go)
//	crashes        starts an election when the leader's process has died (crash.go)
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
	"github.com/parley-chat/parley/internal/fair"
	"github.com/parley-chat/parley/node/internal/link"
	"github.com/parley-chat/parley/node/internal/store"
)

// ErrDamaged is in the chain of errors that say that the data directory does not
// hold what was written to it.
var ErrDamaged = store.ErrDamaged

// Node is a member of the cluster. Its methods are safe for concurrent use.
//
// Commands wait in a bounded queue and are refused beyond it; a watcher that is
// slower than its mailbox reads from the mailbox instead.
type Node struct {
	cfg    Config
	log    *slog.Logger
	server raft.ServerID
	meters *meters

	dir     *store.Dir
	store   *store.Store
	fsm     *fsm.FSM
	link    *link.Transport
	raft    *raft.Raft
	entries raft.LogStore // raft's log
	leads   chan bool     // raft's NotifyCh
	seen    chan raft.Observation

	refusals chan struct{} // a token when this node has refused a candidate its vote

	proposer *proposer
	notices  *notices
	hub      *hub
	lists    *fair.Share // of the processors, for pages of names
	reads    *rounds     // of this node as the leader
	asks     *rounds     // of this node as a follower: asks the leader
	beats    *beats

	leader     atomic.Pointer[leadership]
	leaderMu   sync.Mutex // held while leader is replaced
	dutyAlarms alarms

	failedTransfers failedTransfers

	stopping  atomic.Bool
	quit      chan struct{}      // closed when the background goroutines are to end
	cancel    context.CancelFunc // of their context
	runningMu sync.Mutex
	running   sync.WaitGroup // no more are added once quit is closed

	shutdown sync.Once
	ended    sync.Once
	done     chan struct{}
	err      atomic.Pointer[error] // why the node failed
}

var _ parley.Subscriber = (*Node)(nil)

// Open starts the member whose data is in cfg.Dir, which is verified first. ctx
// bounds nothing but the start. A node that is not yet in a cluster bootstraps
// one or joins one in the background.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := newNode(cfg.withDefaults())
	err := n.open(ctx)
	if err != nil {
		n.abandon()
		return nil, n.explain(err)
	}
	return n, nil
}

func newNode(cfg Config) *Node {
	n := &Node{
		cfg: cfg, log: cfg.Logger.With("node", cfg.Name), meters: newMeters(cfg.Metrics),
		leads: make(chan bool, 64), seen: make(chan raft.Observation, 1), refusals: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	n.hub = newHub(n.meters, cfg.Watches)
	n.lists = fair.NewShare(cfg.Lists, listPatience)
	n.leader.Store(&leadership{changed: make(chan struct{})})
	return n
}

// open opens what lies on disk, in an order that leaves either no identity or
// everything that belongs to it, and starts Raft and the background goroutines.
func (n *Node) open(ctx context.Context) (err error) {
	if n.dir, err = store.OpenDir(n.cfg.Dir, n.cfg.Name, n.cfg.LogStore); err != nil {
		return err
	}
	n.server = raft.ServerID(n.dir.Server)
	n.link, err = link.New(link.Config{
		Inner: n.cfg.Network.Transport(), Server: n.server, HeartbeatEvery: n.cfg.HeartbeatTimeout / 3,
		OnInstall: n.onInstall, OnRefusal: func() { signal(n.refusals) }, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.store, err = n.dir.OpenStore(store.Config{Timeout: n.cfg.DiskTimeout, Fatal: n.fatal, StageBytes: n.cfg.LogStageBytes, Logger: newRaftLogger(n.log)})
	if err != nil {
		return err
	}
	statePath, err := n.dir.StatePath()
	if err != nil {
		return err
	}
	n.fsm, err = fsm.Open(fsm.Config{
		Dir: statePath, OnEvents: n.hub.publish, Logger: n.log, Fatal: n.fatal,
		CheckpointBytes: n.cfg.CheckpointBytes, MaxDirtyBytes: n.cfg.DirtyBytes,
		ReplayBytes: n.cfg.ReplayBytes, CheckpointEvery: n.cfg.CheckpointEvery,
	})
	if err != nil {
		return err
	}
	n.link.SetApplied(n.fsm.Applied)
	n.link.SetDurable(n.store.Durable)
	virgin, err := n.reconcile()
	if err != nil {
		return err
	}
	if err := n.dir.Commit(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.startRaft(); err != nil {
		return err
	}
	n.start(virgin)
	return nil
}

// reconcile compares the log with the state, and reports whether both are empty.
func (n *Node) reconcile() (virgin bool, err error) {
	snapshots, err := n.fsm.Snapshots().List()
	if err != nil {
		return false, err
	}
	if len(snapshots) == 0 {
		if err := n.store.Reconcile(0, 0); err != nil {
			return false, err
		}
		return n.store.New()
	}
	if err := n.store.Reconcile(snapshots[0].Index, snapshots[0].Term); err != nil {
		return false, err
	}
	return false, n.truncate(snapshots[0].Index)
}

// truncate does at the start what Raft does when the log has grown by
// snapshotThreshold since the last snapshot. That is the checkpoint, which every
// start finds at almost the end of the log: a node that is started often enough
// would never truncate.
func (n *Node) truncate(checkpoint uint64) error {
	log, err := n.store.Log()
	if err != nil {
		return err
	}
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil || last <= n.cfg.TrailingLogs {
		return err
	}
	if to := min(checkpoint, last-n.cfg.TrailingLogs); first != 0 && first <= to {
		return log.DeleteRange(first, to)
	}
	return nil
}

func (n *Node) startRaft() (err error) {
	if n.entries, err = n.store.Log(); err != nil {
		return err
	}
	n.store.Attach()
	started := make(chan struct{})
	go func() { // its own goroutine, since a storage error ends the one that meets it
		defer close(started)
		n.raft, err = raft.NewRaft(n.raftConfig(), durable{n.fsm, n.store}, n.entries, n.store.Stable(), n.fsm.Snapshots(), n.link)
	}()
	<-started
	if failure := n.Err(); failure != nil {
		return failure
	}
	if err != nil {
		return err
	}
	n.raft.RegisterObserver(raft.NewObserver(n.seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	}))
	n.link.SetWanted(n.replicates)
	n.link.SetFollowing(n.follows)
	n.store.WriteBehind(func() bool { return n.raft.State() == raft.Leader })
	return nil
}

func (n *Node) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = n.server
	c.HeartbeatTimeout = n.cfg.HeartbeatTimeout
	c.ElectionTimeout = n.cfg.HeartbeatTimeout
	c.LeaderLeaseTimeout = n.cfg.HeartbeatTimeout
	c.CommitTimeout = n.cfg.CommitTimeout
	c.MaxAppendEntries = maxAppendEntries
	c.TrailingLogs = n.cfg.TrailingLogs
	c.SnapshotThreshold = snapshotThreshold
	c.SnapshotInterval = n.cfg.SnapshotInterval
	c.NoSnapshotRestoreOnStart = true // the state machine is at its checkpoint already
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.NotifyCh = n.leads
	c.Logger = newRaftLogger(n.log)
	return c
}

// start runs the background goroutines.
func (n *Node) start(virgin bool) {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.beats = &beats{n: n}
	n.reads = &rounds{n: n, find: func() (uint64, error) { return n.leaderRead(ctx) }}
	n.asks = &rounds{n: n, find: func() (uint64, error) { return n.askLeader(ctx) }}
	n.proposer = newProposer(n)
	n.notices = newNotices(n)
	n.meters.watch(n)
	n.refreshLeader()
	n.background(n.proposer.propose)
	n.background(n.proposer.answer)
	n.background(func() { n.notices.run(ctx) })
	n.background(func() { n.follow(ctx) })
	n.background(func() { n.lead(ctx) })
	n.background(func() { n.crashes(ctx) })
	if virgin {
		n.background(func() { n.boot(ctx) })
	}
}

// background runs f on a goroutine that Shutdown waits for, or returns false when
// it is too late.
func (n *Node) background(f func()) bool {
	n.runningMu.Lock()
	defer n.runningMu.Unlock()
	if n.stopped() {
		return false
	}
	n.running.Add(1)
	go func() {
		defer n.running.Done()
		f()
	}()
	return true
}

// stopped reports whether the background goroutines are to end.
func (n *Node) stopped() bool {
	select {
	case <-n.quit:
		return true
	default:
		return false
	}
}

// replicates reports whether this node still leads in a term, and a server is
// still a member.
func (n *Node) replicates(term uint64, id raft.ServerID) bool {
	if n.raft.State() != raft.Leader || n.raft.CurrentTerm() != term {
		return false
	}
	for _, s := range n.servers() {
		if s.ID == id {
			return true
		}
	}
	return false
}

// follows reports whether this node follows a leader in a term. Raft stores a new
// term, and then sets it, before it votes in it.
func (n *Node) follows(term uint64, leader raft.ServerID) bool {
	_, now := n.raft.LeaderWithID()
	return now == leader && n.raft.State() == raft.Follower && n.raft.CurrentTerm() == term
}

// servers is Raft's latest configuration. (What Raft returns is what it works with.)
func (n *Node) servers() []raft.Server {
	return slices.Clone(n.raft.GetConfiguration().Configuration().Servers)
}

// fatal records why the node cannot go on. From then on it answers nobody. The
// disk may hang, so nothing is closed: the process must end.
func (n *Node) fatal(err error) {
	n.ended.Do(func() {
		var told *advised
		if err = n.explain(err); !errors.As(err, &told) {
			err = &advised{err, fmt.Sprintf("check the disk that holds %s, its health and its free space, then start the node again", n.cfg.Dir)}
		}
		n.err.Store(&err)
		n.stopping.Store(true)
		if n.link != nil {
			n.link.Refuse()
		}
		n.log.Error("this node has failed and stops", "err", err)
		n.hub.close()
		close(n.done)
	})
}

// explain adds to an error what to do about it.
func (n *Node) explain(err error) error {
	var told *advised
	switch {
	case errors.As(err, &told):
		return err
	case errors.Is(err, fsm.ErrDamaged) && !errors.Is(err, ErrDamaged):
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
		fallthrough
	case errors.Is(err, ErrDamaged):
		return &advised{err, fmt.Sprintf("check this host's disk and memory; then move %s away and start node %s again with --join and an empty data directory, while the other members run", n.cfg.Dir, n.cfg.Name)}
	}
	return err
}

// advised is an error with what to do about it.
type advised struct {
	err    error
	advice string
}

func (a *advised) Error() string { return a.err.Error() + "; what to do: " + a.advice }
func (a *advised) Unwrap() error { return a.err }

// Done is closed when the node has stopped, after Shutdown or because it failed.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err is why the node failed, with what to do about it. The process must then
// end at once, with a non-zero status and without Shutdown. It is nil as long as
// the node runs and after a Shutdown.
func (n *Node) Err() error {
	if err := n.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Digest is a checksum over the whole state after the log entry at index. It is
// the same on all members that are at that index.
func (n *Node) Digest() (index uint64, sum string, err error) { return n.fsm.Digest() }
