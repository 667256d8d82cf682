package node

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

// noticeAfter is how long a leader has proposed nothing when it tells its
// followers what is committed.
const noticeAfter = time.Millisecond

// notices tell followers that an entry is committed when no other is going to.
// Raft tells them with the next entry, or after Config.CommitTimeout, and until
// then their readers wait for their mail.
//
// Under load there are none, since entries follow each other. One goroutine
// waits, and one at a time for each member tells.
type notices struct {
	n    *Node
	wake chan struct{}

	mu     sync.Mutex
	last   committed
	asking map[string]bool // members that are being told
}

// committed is an entry that has been applied here in its own term.
type committed struct{ number, term, index uint64 }

func newNotices(n *Node) *notices {
	return &notices{n: n, wake: make(chan struct{}, 1), asking: make(map[string]bool)}
}

// applied is told of an entry that was applied in its term, unless others have
// been proposed meanwhile.
func (t *notices) applied(c committed) {
	t.mu.Lock()
	t.last = c
	t.mu.Unlock()
	signal(t.wake)
}

func (t *notices) run(ctx context.Context) {
	for {
		select {
		case <-t.wake:
		case <-ctx.Done():
			return
		}
		pause.For(ctx, noticeAfter)
		if _, due := t.due(); !due {
			continue
		}
		for _, s := range t.n.servers() {
			if s.ID != t.n.server {
				t.tell(ctx, string(s.Address))
			}
		}
	}
}

// due returns the last entry, and whether none has been proposed after it.
func (t *notices) due() (committed, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last, t.last.number == t.n.proposer.begun.Load()
}

// tell sees to it that a member is told.
func (t *notices) tell(ctx context.Context, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asking[name] {
		return // its goroutine looks again when it is done
	}
	t.asking[name] = t.n.background(func() {
		var told committed
		for again := noticeAfter; t.more(name, told); {
			c, _ := t.due()
			if t.call(ctx, name, c) || again > t.n.cfg.CommitTimeout {
				told, again = c, noticeAfter
				continue
			}
			pause.For(ctx, again)
			again *= 2
		}
	})
}

// more reports whether there is something that a member has not been told, or
// ends its turn.
func (t *notices) more(name string, told committed) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	more := t.last != told && t.last.number == t.n.proposer.begun.Load() && !t.n.stopped()
	if !more {
		delete(t.asking, name)
	}
	return more
}

// call tells one member. It returns false if the member has not got the entry
// yet. That it cannot be reached does not matter: Raft will tell it, too.
func (t *notices) call(ctx context.Context, name string, c committed) bool {
	ctx, cancel := context.WithTimeout(ctx, t.n.roundTimeout())
	defer cancel()
	body := binary.BigEndian.AppendUint64(nil, c.term)
	body = binary.BigEndian.AppendUint64(body, c.index)
	reply, err := t.n.cfg.Network.Peer(name).Call(ctx, callCommitted, body)
	return err != nil || len(reply) == 0
}

// handleCommitted is the other end of call. What it gives to Raft is what the
// leader's Raft would send: that of this term, the entry at index, which is of the
// same term, is committed. Raft looks whether it has that entry. The reply is not
// empty if the entry is still to come.
func (n *Node) handleCommitted(from string, body []byte) (reply []byte, err error) {
	if len(body) != 16 {
		return nil, parley.Errorf(parley.CodeBadRequest, "%s from %s has %d bytes, not 16", callCommitted, from, len(body))
	}
	term, index := binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])
	addr, leader := n.raft.LeaderWithID()
	if string(addr) != from || n.raft.CurrentTerm() != term || n.raft.LastIndex() < index {
		return []byte{1}, nil
	}
	if n.fsm.Applied() >= index {
		return nil, nil
	}
	n.link.Inject(&raft.AppendEntriesRequest{
		RPCHeader:    raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: []byte(addr)},
		Term:         term,
		PrevLogEntry: index, PrevLogTerm: term, LeaderCommitIndex: index,
	}, n.quit)
	return nil, nil
}
