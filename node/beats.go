package node

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// beats confirms leadership: it asks all voters, with the heartbeat that Raft
// would send, whether they still are in this term. Once a majority has said so
// after the question came up, no later leader can have been elected before it
// came up, and nothing was committed that this leader does not know of.
//
// Raft's own VerifyLeader does not say that: it is content with the answer to a
// heartbeat that was already under way, and such an answer may have waited in a
// socket while this process was stopped and another leader elected.
//
// At most one goroutine per voter, which serves one question after the other.
type beats struct {
	n *Node

	mu     sync.Mutex
	voters map[raft.ServerID]*voter
	ask    *ask // the question of the moment
}

// ask is one question to all voters.
type ask struct {
	term   uint64
	needed int
	yes    map[raft.ServerID]bool
	ok     chan struct{} // closed when a majority has said yes
}

type voter struct {
	raft.Server
	busy bool // its goroutine runs
}

// confirm returns nil once a majority was in this term after the call began. It
// is called for one question at a time.
func (b *beats) confirm(ctx context.Context, term uint64) error {
	servers := b.n.servers()
	a := &ask{term: term, yes: make(map[raft.ServerID]bool), ok: make(chan struct{})}
	var others []raft.Server
	voters := 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if s.ID != b.n.server {
			others = append(others, s)
		}
	}
	a.needed = voters/2 + 1 - (voters - len(others)) // this node is in this term itself
	if a.needed <= 0 {
		return nil
	}
	l := b.n.leader.Load()
	if !l.Self {
		return b.n.notLeader()
	}
	b.pose(a, others)
	defer b.pose(nil, nil)
	select {
	case <-a.ok:
		return nil
	case <-l.changed:
		return b.n.notLeader()
	case <-b.n.quit:
		return errStopping
	case <-ctx.Done():
		return parley.Errorf(parley.CodeNoQuorum, "a majority did not confirm the leader in time")
	}
}

// pose makes a the question of the moment, nil ends it.
func (b *beats) pose(a *ask, others []raft.Server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.voters == nil {
		b.voters = make(map[raft.ServerID]*voter)
	}
	b.ask = a
	for _, s := range others {
		v := b.voters[s.ID]
		if v == nil {
			v = &voter{}
			b.voters[s.ID] = v
		}
		v.Server = s
		if !v.busy { // else its goroutine finds the question when it is done with the last one
			v.busy = b.n.background(func() { b.serve(v) })
		}
	}
}

// serve asks one voter until the question of the moment is settled.
func (b *beats) serve(v *voter) {
	for {
		a, s := b.current(v)
		if a == nil {
			return
		}
		req := raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(b.n.server), Addr: []byte(b.n.cfg.Name)},
			Term:      a.term,
		}
		var resp raft.AppendEntriesResponse
		err := b.n.link.Heartbeat(s.ID, s.Address, &req, &resp)
		if err == nil && resp.Term == a.term {
			b.answered(a, s.ID)
		} else if err == nil || !b.pause() {
			b.drop(a, s.ID)
		}
	}
}

// current is the question that v still has to be asked; nil ends its goroutine.
func (b *beats) current(v *voter) (*ask, raft.Server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.ask
	if a == nil || a.settled() || b.n.stopped() {
		v.busy = false
		return nil, raft.Server{}
	}
	if _, asked := a.yes[v.ID]; asked {
		v.busy = false
		return nil, raft.Server{}
	}
	return a, v.Server
}

func (a *ask) settled() bool {
	select {
	case <-a.ok:
		return true
	default:
		return false
	}
}

func (b *beats) answered(a *ask, id raft.ServerID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.yes[id] = true
	count := 0
	for _, yes := range a.yes {
		if yes {
			count++
		}
	}
	if count == a.needed {
		close(a.ok)
	}
}

// drop notes that a voter will not say yes to this question.
func (b *beats) drop(a *ask, id raft.ServerID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.yes[id] = false
}

// pause waits before a voter that could not be reached is asked again, and
// reports whether it shall be.
func (b *beats) pause() bool {
	t := time.NewTimer(b.n.cfg.HeartbeatTimeout / 10)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-b.n.quit:
		return false
	}
}
