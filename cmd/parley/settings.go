package main

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/parley-chat/parley/fsm"
	"github.com/parley-chat/parley/node"
	"github.com/parley-chat/parley/wire"
)

// settings are the flags of `parley serve`, and what follows from them. The
// defaults are those of the packages that they configure; they are repeated here
// so that --help shows them.
type settings struct {
	name, data, certs string
	members           []string
	join              bool

	clientListen, clientAdvertise string
	clientPlaintext               bool
	clientCert, clientKey         string
	peerListen, peerAdvertise     string
	opsListen                     string
	adminSocket, adminListen      string
	opsProfiles                   bool
	logLevel, logFormat           string

	client clientSettings
	auth   authSettings
	state  stateSettings
	raft   raftSettings
	peer   peerSettings

	names []string          // of the members, sorted
	addrs map[string]string // of the members, by name
}

// clientSettings bound what clients may cost.
type clientSettings struct {
	maxConns, maxConnsPerIP, maxCommands                int
	maxConnsPerUser, maxHandshakes, maxHandshakesPerIP  int
	maxWatches, maxLists, sendsPerUser, sessionsPerUser int
	maxFrame, buffer                                    int64
	handshake, frame, command, idle, write, shutdown    time.Duration
}

// stateSettings bound the replicated state.
type stateSettings struct {
	body, mailboxBytes                        int64
	mailboxMessages, users, sessions, replies uint64
	sessionIdle                               time.Duration
}

// raftSettings are about the replicated log.
type raftSettings struct {
	store                                      string
	heartbeat, commit, disk, propose, snapshot time.Duration
	queueCommands, batchCommands, inFlight     int
	queueBytes, batchBytes, stageBytes         int64
	checkpointBytes, dirtyBytes, replayBytes   int64
	checkpointEvery                            time.Duration
	trailing                                   uint64
}

// peerSettings are about the connections between the nodes.
type peerSettings struct {
	handshake, dial, probe, rpc, ping, idle, write time.Duration
	buffer                                         int64
	maxInFlight, maxConns, maxHandshakes, raftPool int
}

func (s *settings) add(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&s.name, "name", "", "the node's `name`, as in its certificate")
	f.StringVar(&s.data, "data", "", "`directory` of the node's data; made if missing")
	f.StringVar(&s.certs, "certs", "", "`directory` with ca.pem and the node's certificate and key")
	f.StringSliceVar(&s.members, "members", nil, "`name=host:port` of all members' peer listeners, separated by commas; the same on every node")
	f.BoolVar(&s.join, "join", false, "a node without data is to be added to the existing cluster")

	f.StringVar(&s.clientListen, "client-listen", ":3000", "`address` to listen on for clients")
	f.StringVar(&s.clientAdvertise, "client-advertise", "", "`address` to which clients are redirected (default: --client-listen, with this host's name if it has none)")
	f.BoolVar(&s.clientPlaintext, "client-plaintext", false, "serve clients without TLS")
	f.StringVar(&s.clientCert, "client-cert", "", "certificate `file` for client TLS (default: the node's own in --certs)")
	f.StringVar(&s.clientKey, "client-key", "", "private key `file` for --client-cert")
	f.StringVar(&s.peerListen, "peer-listen", ":7000", "`address` to listen on for other members")
	f.StringVar(&s.peerAdvertise, "peer-advertise", "", "`address` at which other members find this node (default: as in --members)")
	f.StringVar(&s.opsListen, "ops-listen", "127.0.0.1:8080", "`address` to listen on for /metrics, /healthz, /readyz, /digest (no TLS, no login)")
	f.BoolVar(&s.opsProfiles, "ops-profiles", false, "serve Go profiles under /debug/pprof/ there")
	f.StringVar(&s.adminSocket, "admin-socket", "", "Unix `socket` for administrators on this machine (default: admin.sock in --data)")
	f.StringVar(&s.adminListen, "admin-listen", "", "`address` to listen on for administrators elsewhere, with certificates of 'parley certs client --admin'; none: only the socket")
	f.StringVar(&s.logLevel, "log-level", "info", "least `level` that is logged: debug, info, warn, error")
	f.StringVar(&s.logFormat, "log-format", "text", "`format` of the log on stderr: text or json")

	s.client.add(f)
	s.auth.add(f)
	s.state.add(f)
	s.raft.add(f)
	s.peer.add(f)
}

func (c *clientSettings) add(f *pflag.FlagSet) {
	f.IntVar(&c.maxConns, "max-conns", 16384, "most client connections")
	f.IntVar(&c.maxConnsPerIP, "max-conns-per-ip", 0, "most client connections from one address; 0: no such limit")
	f.IntVar(&c.maxConnsPerUser, "max-conns-per-user", 1024, "most framed connections of this node that have logged in as one user; 0: no such limit")
	f.IntVar(&c.maxHandshakes, "max-handshakes", 2000, "most TLS handshakes of clients a second, and five times as many at once; further ones wait; 0: no such limit")
	f.IntVar(&c.maxHandshakesPerIP, "max-handshakes-per-ip", 1000, "the same for clients of one address, whose further connections are closed; 0: no such limit")
	f.IntVar(&c.maxCommands, "max-commands", 4096, "most commands of all clients of this node under way; beyond, connections take turns")
	f.IntVar(&c.maxWatches, "max-watches-per-user", 128, "most connections of this node that watch one user's mailbox")
	f.IntVar(&c.sendsPerUser, "max-sends-per-user", 2000, "most messages a second of one user who has logged in by this node, and at once; 0: no such limit")
	f.IntVar(&c.sessionsPerUser, "max-sessions-per-user", 10_000, "most open sessions of one user who has logged in, in the cluster; 0: no such limit")
	f.IntVar(&c.maxLists, "max-lists", 0, "most pages of names computed at a time; 0: half of the processors")
	sizeVar(f, &c.maxFrame, "max-frame", 128<<10, "largest frame, client and peer")
	sizeVar(f, &c.buffer, "client-buffer", 256<<10, "most bytes that wait for a slow client; the kernel buffers half as many in each direction")
	f.DurationVar(&c.handshake, "handshake-timeout", 5*time.Second, "longest time for the TLS handshake, and for the rest of a first frame that has begun")
	f.DurationVar(&c.frame, "frame-timeout", 5*time.Second, "longest time that a classic client's frame may take to arrive")
	f.DurationVar(&c.command, "command-timeout", 5*time.Second, "longest time that a classic client's command may take, then it is answered 'error'")
	f.DurationVar(&c.idle, "idle-timeout", 90*time.Second, "a framed client that is silent for so long is closed, and a classic one that takes in nothing")
	f.DurationVar(&c.write, "write-timeout", 10*time.Second, "a client that takes nothing for so long is closed")
	f.DurationVar(&c.shutdown, "drain-timeout", 10*time.Second, "longest time that an orderly end may take")
}

func (c *stateSettings) add(f *pflag.FlagSet) {
	sizeVar(f, &c.body, "max-body", 64<<10, "longest text of a message")
	f.Uint64Var(&c.mailboxMessages, "max-mailbox-messages", 100_000, "most unread messages in a mailbox")
	sizeVar(f, &c.mailboxBytes, "max-mailbox-bytes", 256<<20, "most bytes of unread messages in a mailbox")
	f.Uint64Var(&c.users, "max-users", 1_000_000, "most users")
	f.Uint64Var(&c.sessions, "max-sessions", 100_000, "most open sessions of clients")
	f.Uint64Var(&c.replies, "max-replies", 8_000_000, "most replies kept for clients that may ask again, all sessions together")
	f.DurationVar(&c.sessionIdle, "session-idle", time.Hour, "sessions unused for longer are closed")
}

// limits are the replicated limits. All nodes should be given the same: those of
// the leader are in force.
func (c *stateSettings) limits() fsm.Limits {
	return fsm.Limits{
		BodyBytes:       uint64(c.body),
		MailboxMessages: c.mailboxMessages,
		MailboxBytes:    uint64(c.mailboxBytes),
		Users:           c.users,
		Sessions:        c.sessions,
		Replies:         c.replies,
	}
}

func (c *raftSettings) add(f *pflag.FlagSet) {
	f.StringVar(&c.store, "log-store", string(node.LogBolt), "the `store` of the log: bolt or wal; it stays what it was at the first start until 'parley convert-log'")
	f.DurationVar(&c.heartbeat, "heartbeat-timeout", 250*time.Millisecond, "time without a word from the leader before an election; more where hosts or disks stall longer")
	f.DurationVar(&c.commit, "commit-timeout", 250*time.Millisecond, "time after which followers are told again what is committed")
	f.DurationVar(&c.disk, "disk-timeout", 5*time.Second, "longest time for one operation on the log; a slower disk counts as broken and ends the node")
	f.DurationVar(&c.propose, "propose-timeout", time.Second, "longest time that an entry waits to be taken into the log")
	f.DurationVar(&c.snapshot, "snapshot-interval", 15*time.Second, "how often the log is considered for truncation")
	f.IntVar(&c.queueCommands, "queue-commands", 16384, "most commands that wait for the log; more are refused as overload")
	sizeVar(f, &c.queueBytes, "queue-bytes", 32<<20, "most bytes of commands that wait for the log")
	f.IntVar(&c.batchCommands, "batch-commands", 1024, "most commands in one log entry")
	sizeVar(f, &c.batchBytes, "batch-bytes", 256<<10, "a log entry of so many bytes takes no more commands")
	f.IntVar(&c.inFlight, "entries-in-flight", 4, "most log entries proposed and not yet committed")
	sizeVar(f, &c.checkpointBytes, "checkpoint-bytes", 32<<20, "about how much changed state in memory starts a checkpoint; a sixty-fourth part of it, at most ten times a second, if that is mainly new mail; an eighth of it once nothing has come for 250 ms; more for a large state, up to a quarter of --dirty-bytes")
	sizeVar(f, &c.dirtyBytes, "dirty-bytes", 256<<20, "changed state in memory beyond which the log waits for the checkpoint")
	sizeVar(f, &c.replayBytes, "replay-bytes", 256<<20, "log that a restart may have to apply again, beyond which a checkpoint starts; a thirty-second part of it for the first one after a start")
	f.DurationVar(&c.checkpointEvery, "checkpoint-every", 30*time.Second, "longest time that a change of the state is in the log only")
	sizeVar(f, &c.stageBytes, "log-stage-bytes", 16<<20, "--log-store bolt: size of the file that takes the newest log entries")
	f.Uint64Var(&c.trailing, "trailing-logs", 10240, "log entries kept for followers that lag")
}

func (c *peerSettings) add(f *pflag.FlagSet) {
	f.DurationVar(&c.handshake, "peer-handshake-timeout", 5*time.Second, "longest time for TLS between members")
	f.DurationVar(&c.dial, "peer-dial-timeout", time.Second, "longest time to connect to a member")
	f.DurationVar(&c.probe, "peer-probe-timeout", 100*time.Millisecond, "longest time of the look whether a lost member's process is dead")
	f.DurationVar(&c.rpc, "peer-raft-timeout", 10*time.Second, "longest time of one Raft call; must suffice for its entries to be sent and synced")
	f.IntVar(&c.raftPool, "peer-raft-pool", 3, "idle Raft connections kept for each member")
	f.DurationVar(&c.ping, "peer-ping-every", time.Second, "time between pings on an idle forwarding connection")
	f.DurationVar(&c.idle, "peer-idle-timeout", 3*time.Second, "a member that is silent for so long on a forwarding connection is given up")
	f.DurationVar(&c.write, "peer-write-timeout", 3*time.Second, "a member that takes nothing for so long is given up")
	sizeVar(f, &c.buffer, "peer-buffer", 16<<20, "most bytes of commands that wait to be forwarded to a member")
	f.IntVar(&c.maxInFlight, "peer-in-flight", 16384, "most commands of one member under way here")
	f.IntVar(&c.maxConns, "peer-max-conns", 512, "most connections with members")
	f.IntVar(&c.maxHandshakes, "peer-max-handshakes", 128, "most unauthenticated connections at a time on the peer port")
}

// checkNumbers finds values that make no sense: most must be more than nothing.
func (s *settings) checkNumbers() error {
	for flag, ok := range map[string]bool{
		"max-conns":             s.client.maxConns > 0,
		"max-conns-per-ip":      s.client.maxConnsPerIP >= 0,
		"max-conns-per-user":    s.client.maxConnsPerUser >= 0,
		"max-handshakes":        s.client.maxHandshakes >= 0,
		"max-handshakes-per-ip": s.client.maxHandshakesPerIP >= 0,
		"max-commands":          s.client.maxCommands > 0,
		"max-watches-per-user":  s.client.maxWatches > 0,
		"max-sends-per-user":    s.client.sendsPerUser >= 0,
		"max-sessions-per-user": s.client.sessionsPerUser >= 0,
		"max-lists":             s.client.maxLists >= 0,
		"max-frame":             s.client.maxFrame >= wire.DefaultMaxFrame && s.client.maxFrame <= 16<<20, // any answer fits the default
		"client-buffer":         s.client.buffer > 0,
		"max-body":              s.state.body > 0 && s.state.body <= 1<<20,
		"max-mailbox-messages":  s.state.mailboxMessages > 0,
		"max-mailbox-bytes":     s.state.mailboxBytes > 0,
		"max-users":             s.state.users > 0,
		"max-sessions":          s.state.sessions > 0,
		"max-replies":           s.state.replies > 0,
		"queue-commands":        s.raft.queueCommands > 0,
		"queue-bytes":           s.raft.queueBytes > 0,
		"batch-commands":        s.raft.batchCommands > 0,
		"batch-bytes":           s.raft.batchBytes > 0,
		"log-stage-bytes":       s.raft.stageBytes >= 64<<10,
		"entries-in-flight":     s.raft.inFlight > 0,
		"checkpoint-bytes":      s.raft.checkpointBytes > 0,
		"dirty-bytes":           s.raft.dirtyBytes >= s.raft.checkpointBytes,
		"replay-bytes":          s.raft.replayBytes > 0,
		"peer-raft-pool":        s.peer.raftPool > 0,
		"peer-buffer":           s.peer.buffer > 0,
		"peer-in-flight":        s.peer.maxInFlight > 0,
		"peer-max-conns":        s.peer.maxConns > 0,
		"peer-max-handshakes":   s.peer.maxHandshakes > 0,
	} {
		if !ok {
			return usagef("--%s is out of range", flag)
		}
	}
	for flag, ok := range s.auth.numbers() {
		if !ok {
			return usagef("--%s is out of range", flag)
		}
	}
	if room := int64(4 << 10); s.state.body+room > s.client.maxFrame { // names and numbers travel with a text
		return usagef("--max-frame must be at least --max-body and %v more", (*sizeValue)(&room))
	}
	for flag, d := range map[string]time.Duration{
		"handshake-timeout": s.client.handshake, "frame-timeout": s.client.frame, "command-timeout": s.client.command,
		"idle-timeout": s.client.idle, "write-timeout": s.client.write, "drain-timeout": s.client.shutdown,
		"session-idle": s.state.sessionIdle, "heartbeat-timeout": s.raft.heartbeat, "commit-timeout": s.raft.commit,
		"disk-timeout": s.raft.disk, "propose-timeout": s.raft.propose, "snapshot-interval": s.raft.snapshot,
		"checkpoint-every":       s.raft.checkpointEvery,
		"peer-handshake-timeout": s.peer.handshake, "peer-dial-timeout": s.peer.dial, "peer-probe-timeout": s.peer.probe,
		"peer-raft-timeout": s.peer.rpc, "peer-ping-every": s.peer.ping, "peer-idle-timeout": s.peer.idle,
		"peer-write-timeout": s.peer.write,
	} {
		if d <= 0 {
			return usagef("--%s: %v must be more than nothing", flag, d)
		}
	}
	return nil
}
