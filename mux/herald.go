package mux

import (
	"sync"

	"github.com/parley-chat/parley/wire"
)

// herald tells connections who leads whenever another node does, in the order in
// which that happens. One goroutine does so for all of them; it runs while there
// are any, and the last to leave waits for it.
type herald struct {
	leadership Leadership // never changed

	mu    sync.Mutex
	conns map[*serverConn]struct{}
	told  Leader // the last leader that was known
	round *round // nil: no connections
}

// round is one life of the goroutine.
type round struct{ quit, ended chan struct{} }

// join adds a connection and tells it who leads if that is another node.
func (h *herald) join(c *serverConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.round == nil {
		h.conns, h.told = make(map[*serverConn]struct{}), Leader{}
		h.round = &round{quit: make(chan struct{}), ended: make(chan struct{})}
		go h.follow(h.round)
	}
	leader, _ := h.look()
	c.redirect(leader)
	h.conns[c] = struct{}{}
}

// leave removes a connection. It is told nothing afterwards.
func (h *herald) leave(c *serverConn) {
	h.mu.Lock()
	delete(h.conns, c)
	last := h.round
	if len(h.conns) > 0 {
		h.mu.Unlock()
		return
	}
	h.round, h.conns = nil, nil
	h.mu.Unlock()
	close(last.quit)
	<-last.ended
}

// follow looks at every change until the round is over.
func (h *herald) follow(r *round) {
	defer close(r.ended)
	for {
		h.mu.Lock()
		var changed <-chan struct{}
		if h.round == r {
			_, changed = h.look()
		}
		h.mu.Unlock()
		select {
		case <-changed:
		case <-r.quit:
			return
		}
	}
}

// look sees who leads and tells the connections if that is news. mu is held.
func (h *herald) look() (Leader, <-chan struct{}) {
	leader, changed := h.leadership()
	if leader.ID != "" && leader != h.told {
		h.told = leader
		for c := range h.conns {
			c.redirect(leader)
		}
	}
	return leader, changed
}

// redirect tells the client who leads, unless that is this node or unknown.
func (s *serverConn) redirect(l Leader) {
	if l.Self || l.ID == "" {
		return
	}
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if s.mute() || s.draining {
		return
	}
	b, err := wire.AppendFrame(s.out.tail(), &wire.Frame{Kind: wire.KindRedirect, Node: l.ID, Addr: l.Client})
	if err != nil {
		return
	}
	s.out.buf = b
	s.out.flush() // a goroutine for each of thousands of connections would be a lot
}
