// Package link stands between Raft and the transport to the other members. It
// adds what hashicorp/raft lacks on that border: a message reaches only the
// server that it is meant for, entries are verified on receipt, heartbeats go
// the same way as everything else, and a follower that returns is served at once.
package link

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley/node/internal/store"
)

// Config says how to make a Transport.
type Config struct {
	Inner  raft.Transport // must have pre-votes
	Server raft.ServerID  // this server
	// HeartbeatEvery is how often each follower that answers at once gets a heartbeat
	// of this server, when it leads; 0: as often as Raft sends one. It must leave room
	// for some of them to be late within a heartbeat's time-out.
	HeartbeatEvery time.Duration
	// OnInstall is told of each snapshot that is sent to a server.
	OnInstall func(raft.ServerID)
	// OnRefusal is told when this server has not given its vote to another one.
	OnRefusal func()
	Logger    *slog.Logger
}

// Transport is a raft.Transport with pre-votes. It owns the goroutines, from New to
// Close, that hand arriving messages to Raft. It does not close the inner transport.
type Transport struct {
	raft.Transport // Inner
	prevotes       raft.WithPreVote
	cfg            Config

	queue    chan raft.RPC // accepted messages but heartbeats, in order
	queued   atomic.Int64  // messages in queue, or on their way from there to out
	out      chan raft.RPC
	refused  atomic.Bool   // nothing goes out or in any more
	refuse   sync.Once     // closes refusing
	refusing chan struct{} // closed by Refuse
	closing  chan struct{} // closed by Close
	relayed  sync.WaitGroup
	pace     *pace

	// wanted reports whether entries of this term to this server are still to be
	// delivered; nil before Raft has been started.
	wanted atomic.Pointer[func(term uint64, id raft.ServerID) bool]

	// following reports whether this node follows a leader in a term; nil before
	// Raft has been started.
	following atomic.Pointer[func(term uint64, leader raft.ServerID) bool]

	// applied is up to where the state of this server goes; nil before there is one.
	applied atomic.Pointer[func() uint64]

	// durable bounds the commit index that followers are told; nil: nothing does.
	durable atomic.Pointer[func(commit uint64) uint64]

	mu      sync.Mutex
	answers map[raft.ServerID]chan struct{} // closed at the server's next answer to a heartbeat
}

var (
	_ raft.Transport   = (*Transport)(nil)
	_ raft.WithPreVote = (*Transport)(nil)
)

var (
	errRefused = errors.New("this node is stopping")
	errServer  = errors.New("message is for another server of this name: its data was replaced")
	errDeposed = errors.New("message of a former leader with what it has got from a newer one")
)

// retryEvery is how often delivery to an unreachable follower is tried. Raft
// itself would wait up to 10 s, even after the follower has returned.
const retryEvery = 250 * time.Millisecond

// New returns a Transport over cfg.Inner.
func New(cfg Config) (*Transport, error) {
	prevotes, ok := cfg.Inner.(raft.WithPreVote)
	if !ok {
		return nil, errors.New("the transport has no pre-votes")
	}
	t := &Transport{
		Transport: cfg.Inner, prevotes: prevotes, cfg: cfg,
		queue: make(chan raft.RPC, 64), out: make(chan raft.RPC), refusing: make(chan struct{}), closing: make(chan struct{}),
		pace:    newPace(cfg.HeartbeatEvery),
		answers: make(map[raft.ServerID]chan struct{}),
	}
	t.relayed.Go(t.relay)
	t.relayed.Go(t.deliver)
	return t, nil
}

// SetWanted tells how to find out whether entries are still to be delivered.
func (t *Transport) SetWanted(f func(term uint64, id raft.ServerID) bool) { t.wanted.Store(&f) }

// SetFollowing tells how to find out whether this node follows a leader in a term.
func (t *Transport) SetFollowing(f func(term uint64, leader raft.ServerID) bool) {
	t.following.Store(&f)
}

// SetApplied tells how to find out up to which log entry the state goes.
func (t *Transport) SetApplied(f func() uint64) { t.applied.Store(&f) }

// SetDurable tells how to bound the commit index that this server, as the leader,
// tells its followers.
func (t *Transport) SetDurable(f func(commit uint64) uint64) { t.durable.Store(&f) }

// Refuse turns away everything from now on, in both directions.
func (t *Transport) Refuse() {
	t.refused.Store(true)
	t.refuse.Do(func() { close(t.refusing) })
}

// Close ends the Transport. Raft must have been shut down.
func (t *Transport) Close() {
	t.Refuse()
	close(t.closing)
	t.relayed.Wait()
}

// Consumer implements raft.Transport.
func (t *Transport) Consumer() <-chan raft.RPC { return t.out }

// SetHeartbeatHandler implements raft.Transport and ignores the handler. It
// would run concurrently with Raft's main loop, and both change the state
// (hashicorp/raft #695).
func (t *Transport) SetHeartbeatHandler(func(raft.RPC)) {}

// Inject gives Raft a message as if it had arrived, or gives up when stop is
// closed.
func (t *Transport) Inject(command any, stop <-chan struct{}) {
	select {
	case t.out <- raft.RPC{Command: command, RespChan: make(chan raft.RPCResponse, 1)}:
	case <-stop:
	case <-t.closing:
	}
}

// Offer does so if Raft waits for messages at this moment.
func (t *Transport) Offer(command any) {
	select {
	case t.out <- raft.RPC{Command: command, RespChan: make(chan raft.RPCResponse, 1)}:
	default:
	}
}

func (t *Transport) relay() {
	defer close(t.queue)
	for {
		select {
		case rpc := <-t.cfg.Inner.Consumer():
			if err := t.accept(rpc.Command); err != nil {
				t.turnAway(rpc, err)
				continue
			}
			if a, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
				if isHeartbeat(a) {
					t.heartbeat(rpc, a)
					continue
				}
				if t.atOnce(rpc) {
					continue
				}
			}
			if _, ok := rpc.Command.(*raft.RequestVoteRequest); ok {
				rpc = t.watchVote(rpc)
			}
			t.queued.Add(1)
			select {
			case t.queue <- rpc:
			case <-t.closing:
				t.turnAway(rpc, errRefused)
			}
		case <-t.closing:
			return
		}
	}
}

func (t *Transport) deliver() {
	for rpc := range t.queue {
		t.handOver(rpc)
		t.queued.Add(-1)
	}
}

// atOnce gives entries to Raft without a stop on the way, if it waits for some and
// nothing came before them.
func (t *Transport) atOnce(rpc raft.RPC) bool {
	if t.queued.Load() > 0 {
		return false
	}
	select {
	case t.out <- rpc:
		return true
	default:
		return false
	}
}

// watchVote passes on what Raft answers to a candidate, and looks at it.
func (t *Transport) watchVote(rpc raft.RPC) raft.RPC {
	asker, raftSays := rpc.RespChan, make(chan raft.RPCResponse, 1)
	t.relayed.Go(func() {
		select {
		case answer := <-raftSays:
			asker <- answer
			if r, ok := answer.Response.(*raft.RequestVoteResponse); ok && answer.Error == nil && !r.Granted {
				t.cfg.OnRefusal()
			}
		case <-t.closing:
		}
	})
	rpc.RespChan = raftSays
	return rpc
}

// heartbeatPatience is how long Raft may take to look at a heartbeat.
const heartbeatPatience = 20 * time.Millisecond

// heartbeat gives a heartbeat to Raft, whatever else waits for it, or has it wait
// on a goroutine of its own while Raft is busy.
func (t *Transport) heartbeat(rpc raft.RPC, a *raft.AppendEntriesRequest) {
	select {
	case t.out <- rpc:
	default:
		t.relayed.Go(func() { t.patient(rpc, a) })
	}
}

// patient gives a heartbeat to Raft, or answers in its place when Raft is busy for
// longer, which is to say, waits for the disk. Two followers that wait for more than a
// heartbeat's timeout would else depose their leader.
//
// It says no more than what is true: this node follows that leader in that term,
// and has not voted in a later one. Nothing in Raft is touched, as its own handler
// of heartbeats would (hashicorp/raft #695), and Raft itself learns of the leader
// by what it is busy with.
func (t *Transport) patient(rpc raft.RPC, a *raft.AppendEntriesRequest) {
	timer := time.NewTimer(heartbeatPatience)
	defer timer.Stop()
	select {
	case t.out <- rpc:
		return
	case <-timer.C:
	case <-t.closing:
	}
	following := t.following.Load()
	if following == nil || t.refused.Load() || !(*following)(a.Term, raft.ServerID(a.ID)) {
		t.handOver(rpc)
		return
	}
	rpc.Respond(&raft.AppendEntriesResponse{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(t.cfg.Server)},
		Term:      a.Term, Success: true,
	}, nil)
}

// installed answers a snapshot whose entries have all been applied here: a
// repetition, because the first answer was lost, or one that comes late. Raft
// would go back to it, and the state machine does not let it.
func (t *Transport) installed(rpc raft.RPC) bool {
	s, ok := rpc.Command.(*raft.InstallSnapshotRequest)
	applied := t.applied.Load()
	if !ok || applied == nil || (*applied)() < s.LastLogIndex {
		return false
	}
	t.cfg.Logger.Info("a snapshot is not needed any more", "from", string(s.Addr), "index", s.LastLogIndex)
	discard(rpc)
	rpc.Respond(&raft.InstallSnapshotResponse{Term: s.Term, Success: true}, nil)
	return true
}

// handOver waits for Raft to take the message. Raft takes none when it has been
// shut down or its disk hangs, and nobody may take an answer from it then.
func (t *Transport) handOver(rpc raft.RPC) {
	if t.installed(rpc) {
		return
	}
	select {
	case t.out <- rpc:
		return
	default:
	}
	poll := time.NewTicker(retryEvery)
	defer poll.Stop()
	for {
		select {
		case t.out <- rpc:
			return
		case <-t.closing:
			t.turnAway(rpc, errRefused)
			return
		case <-poll.C:
			if t.refused.Load() {
				t.turnAway(rpc, errRefused)
				return
			}
		}
	}
}

func (t *Transport) turnAway(rpc raft.RPC, err error) {
	discard(rpc)
	rpc.Respond(emptyResponse(rpc.Command), err)
}

func discard(rpc raft.RPC) {
	if rpc.Reader != nil {
		io.Copy(io.Discard, rpc.Reader) // else the rest of the snapshot is taken for messages
	}
}

func emptyResponse(command any) any {
	switch command.(type) {
	case *raft.AppendEntriesRequest:
		return &raft.AppendEntriesResponse{}
	case *raft.RequestVoteRequest:
		return &raft.RequestVoteResponse{}
	case *raft.RequestPreVoteRequest:
		return &raft.RequestPreVoteResponse{}
	case *raft.InstallSnapshotRequest:
		return &raft.InstallSnapshotResponse{}
	}
	return &raft.TimeoutNowResponse{}
}

// accept checks a message that has arrived.
func (t *Transport) accept(command any) error {
	if t.refused.Load() {
		return errRefused
	}
	h := header(command)
	if h == nil {
		return fmt.Errorf("unexpected command") // the text that Raft looks for
	}
	addr, server, ok := bytes.Cut(h.Addr, []byte{0})
	if !ok || string(server) != string(t.cfg.Server) {
		return fmt.Errorf("%w (it is for %q, this is %q)", errServer, server, t.cfg.Server)
	}
	h.Addr = addr
	if term, newest := terms(command); newest > term {
		return fmt.Errorf("%w (of term %d, with an entry of term %d)", errDeposed, term, newest)
	}
	if a, ok := command.(*raft.AppendEntriesRequest); ok {
		for _, e := range a.Entries {
			if len(e.Extensions) == 0 {
				continue // it gets a checksum when it is stored
			}
			if err := store.Verify(e); err != nil {
				t.cfg.Logger.Error("a log entry was damaged on the way; it is refused and will be sent again", "from", string(addr), "err", err)
				return err
			}
		}
	}
	return nil
}

// terms returns the term of a message that brings entries, and the newest of theirs.
// A leader's entries are not newer than its term. But the last message of one that
// was deposed while it waited for an answer takes entries from its log as it is by
// then. They are no lies; but this member would store them without having stored
// their term, which is what damage looks like at the next start.
func terms(command any) (term, newest uint64) {
	switch c := command.(type) {
	case *raft.AppendEntriesRequest:
		if n := len(c.Entries); n > 0 {
			return c.Term, c.Entries[n-1].Term
		}
	case *raft.InstallSnapshotRequest:
		return c.Term, c.LastLogTerm
	}
	return 0, 0
}

func header(command any) *raft.RPCHeader {
	switch c := command.(type) {
	case *raft.AppendEntriesRequest:
		return &c.RPCHeader
	case *raft.RequestVoteRequest:
		return &c.RPCHeader
	case *raft.RequestPreVoteRequest:
		return &c.RPCHeader
	case *raft.InstallSnapshotRequest:
		return &c.RPCHeader
	case *raft.TimeoutNowRequest:
		return &c.RPCHeader
	}
	return nil
}
