package node

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
)

// readPoint returns when this node's own state reflects every command that was
// acknowledged, anywhere, before the call.
func (n *Node) readPoint(ctx context.Context, forward bool) error {
	if n.stopping.Load() {
		return errStopping
	}
	from := n.reads
	if l := n.leader.Load(); !l.Self {
		if !forward || l.ID == "" {
			return noQuorum(n.notLeader())
		}
		from = n.asks
	}
	index, err := from.get(ctx)
	if err == nil {
		err = n.fsm.WaitApplied(ctx, index)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fsm.ErrClosed):
		return errStopping
	case errors.Is(err, context.DeadlineExceeded):
		return parley.Errorf(parley.CodeNoQuorum, "the read was not confirmed within the deadline")
	}
	return err
}

// noQuorum makes the lack of any leader what it is for a read.
func noQuorum(err *parley.Error) *parley.Error {
	if err.Leader == "" {
		return &parley.Error{Code: parley.CodeNoQuorum, Detail: err.Detail}
	}
	return err
}

// rounds finds indexes for reads: one round at a time, and one for all who came
// before it began. A round's goroutine ends when nobody waits.
type rounds struct {
	n    *Node
	find func() (uint64, error) // bounded in time

	mu      sync.Mutex
	next    *round // gathers those who wait for the next one
	running bool
}

type round struct {
	done  chan struct{}
	index uint64
	err   error
}

func (r *rounds) get(ctx context.Context) (uint64, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	if !r.running {
		r.running = r.n.background(r.run)
	}
	running := r.running
	r.mu.Unlock()
	if !running {
		return 0, errStopping
	}
	select {
	case <-mine.done:
		return mine.index, mine.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (r *rounds) run() {
	for {
		r.mu.Lock()
		now := r.next
		r.next = nil
		r.running = now != nil
		r.mu.Unlock()
		if now == nil {
			return
		}
		now.index, now.err = r.find()
		close(now.done)
	}
}

// leaderRead finds the index that a read on any member must wait for.
//
// Raft's commit index also counts entries that the state machine never sees,
// which it would wait for in vain: the no-op at the beginning of a term. After
// it, this node's leadership knows commands and configurations only, which are
// both seen. So a read first needs an entry of this term that has been applied
// (proposer.marked), if only an empty one; it also makes sure that everything
// that was acknowledged by former leaders is covered.
func (n *Node) leaderRead(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, n.roundTimeout())
	defer cancel()
	term := n.raft.CurrentTerm()
	if n.raft.State() != raft.Leader {
		return 0, n.notLeader()
	}
	if n.proposer.marked.Load() != term {
		if err := n.proposer.admin(ctx, func(*fsm.Batch) {}); err != nil {
			return 0, err
		}
		if n.proposer.marked.Load() != term {
			return 0, n.notLeader()
		}
	}
	index := n.raft.CommitIndex()
	if err := n.beats.confirm(ctx, term); err != nil {
		return 0, err
	}
	return index, nil
}

// askLeader finds the index with the leader's help.
func (n *Node) askLeader(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, n.roundTimeout())
	defer cancel()
	l := n.leader.Load()
	if l.ID == "" || l.Self {
		return 0, noQuorum(n.notLeader())
	}
	b, err := n.cfg.Network.Peer(l.ID).Call(ctx, callReadIndex, nil)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, parley.Errorf(parley.CodeUnsupported, "%s answered %s with %d bytes", l.ID, callReadIndex, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// handleReadIndex is the other end of askLeader.
func (n *Node) handleReadIndex(ctx context.Context) ([]byte, error) {
	if !n.leader.Load().Self {
		return nil, n.notLeader()
	}
	index, err := n.reads.get(ctx)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, index), nil
}
