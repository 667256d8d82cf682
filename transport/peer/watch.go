package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/parley-chat/parley/internal/pause"
)

// watch finds out which members' processes have ended. When a connection with a
// member is lost it looks whether the member's port still accepts: a host whose
// process is gone refuses at once, long before any time-out would tell. A host
// that has gone with its process, as a container's does, does not answer at all;
// that says nothing if the connection was lost in the network, but if the other
// end has closed it, then it was the process that went.
//
// One look at a member is under way at a time, and each crash is told once:
// until the member has been connected again.
type watch struct {
	n       *Network
	crashed chan string

	mu       sync.Mutex
	suspects map[string]*suspect
}

type suspect struct {
	looking bool // a look is under way
	again   bool // another connection was lost meanwhile
	closed  bool // one of them by the other end
	told    bool
}

func newWatch(n *Network) *watch {
	return &watch{n: n, crashed: make(chan string, 64), suspects: make(map[string]*suspect)}
}

// lost is told that a connection with a member ended, and whether the other end
// closed it. It does not block.
func (w *watch) lost(member string, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.suspects[member]
	if s == nil {
		s = &suspect{}
		w.suspects[member] = s
	}
	s.closed = s.closed || closed
	switch {
	case s.told:
	case s.looking:
		s.again = true
	default:
		s.looking = w.n.spawn(func() { w.look(member, s) })
	}
}

// alive is told that a member has proved who it is on a new connection.
func (w *watch) alive(member string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.suspects[member]; s != nil {
		s.told, s.closed = false, false
	}
}

// look probes a member until no more connections are lost meanwhile.
func (w *watch) look(member string, s *suspect) {
	for more := true; more; {
		gone := w.gone(member, s)
		w.mu.Lock()
		if gone && !s.told {
			s.told = true
			w.tell(member)
		}
		more = s.again && !s.told && w.n.life.Err() == nil
		s.again = false
		s.looking = more
		w.mu.Unlock()
	}
}

func (w *watch) tell(member string) {
	select {
	case w.crashed <- member:
		w.n.log.Info("member is gone: its connections ended and its port takes no new ones", "member", member)
	default:
		w.n.log.Warn("member is gone, but nobody reads that members are gone", "member", member)
	}
}

// gone reports whether the member's process is: at the address at which it was
// reached, or, if it never was, at all of them.
func (w *watch) gone(member string, s *suspect) bool {
	addrs := w.n.book.proven(member)
	for _, addr := range addrs {
		ctx, cancel := context.WithTimeout(w.n.life, w.n.cfg.ProbeTimeout)
		found := probe(ctx, addr)
		cancel()
		w.mu.Lock()
		gone := found == isClosed || found == isSilent && s.closed && w.n.life.Err() == nil
		w.mu.Unlock()
		if !gone {
			return false
		}
	}
	return len(addrs) > 0
}

// answer is what a port does with a connection.
type answer int

const (
	isSilent answer = iota // nothing
	isClosed               // it refuses, nothing listens there
	isOpen
)

// probe finds out about a port before ctx ends. A connection that is ended as
// soon as it is made may come from a kernel that is just tearing the process
// down, so it is tried again.
func probe(ctx context.Context, addr string) answer {
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "tcp", addr)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return isClosed
		case err != nil && !errors.Is(err, syscall.ECONNRESET):
			return isSilent
		case err == nil && stays(ctx, c):
			return isOpen
		}
		if !pause.For(ctx, 2*time.Millisecond) {
			return isOpen // at least it says something
		}
	}
}

// stays reports whether the other end keeps a connection open, on which it waits
// for us to speak, for 50 ms or until ctx ends.
func stays(ctx context.Context, c net.Conn) bool {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		return ctx.Err() != nil
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil
}
