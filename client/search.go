package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
	"github.com/parley-chat/parley/wire"
)

const (
	// How long a try has the search to itself before the next server is tried
	// beside it: one that does not even accept the connection may be a host that is
	// gone; one that does is there, and may have a lot to do.
	dialAlone  = 50 * time.Millisecond
	helloAlone = 100 * time.Millisecond
	lastAlone  = 400 * time.Millisecond // both grow up to this with each round

	// patientTime is for how long a client that is told who leads, but cannot get
	// there, goes on trying before it makes do with a follower.
	patientTime = time.Second
)

// errNoOther ends a search for a successor: the server in question still leads.
var errNoOther = errors.New("no other server leads")

// search looks for a connection, in a goroutine that the manager waits for.
type search struct {
	cancel context.CancelFunc
	found  chan *link // gets one value: the connection, or nil
}

// begin starts a search. With a rival, it looks once around for another server
// that should be used instead, for the nth time, counted from 0; without, it looks
// until it has found one. wait is the time before all this.
func (c *Client) begin(ctx context.Context, rival *link, n int, wait time.Duration) *search {
	ctx, cancel := context.WithCancel(ctx)
	s := &search{cancel: cancel, found: make(chan *link, 1)}
	go func() {
		defer cancel()
		if !pause.For(ctx, wait) {
			s.found <- nil
			return
		}
		s.found <- c.seek(ctx, rival, n)
	}()
	return s
}

// end stops the search and returns what it has found by then.
func (s *search) end() *link {
	s.cancel()
	return <-s.found
}

func (c *Client) seek(ctx context.Context, rival *link, n int) *link {
	mode := wire.ModeLeader
	if c.cfg.Any {
		mode = wire.ModeAny
	}
	h := c.newHunt(mode, rival)
	ctx, cancel := context.WithCancel(ctx)
	defer h.stop(cancel)
	for ; ; n++ {
		l, err := h.round(ctx, n)
		if l == nil && rival == nil && !h.told.IsZero() && time.Since(h.told) >= patientTime {
			l = c.helper(ctx, h.follower)
		}
		if l != nil || rival != nil || ctx.Err() != nil {
			return l
		}
		c.mu.Lock()
		c.trouble = err
		c.mu.Unlock()
		wait := roundWait(n)
		c.emit(Event{Kind: Retrying, Err: err, Wait: wait})
		if l := h.rest(ctx, wait); l != nil || ctx.Err() != nil {
			return l
		}
	}
}

// helper connects to a follower, to be served through it.
func (c *Client) helper(ctx context.Context, follower target) *link {
	l, err := c.connect(ctx, follower, wire.ModeAny, c.cfg.DialTimeout, nil)
	if err != nil {
		return nil
	}
	l.helper = true
	return l
}

// hunt tries servers until one takes us. Several tries may be under way, one for
// each address, and one that gets no answer holds up nobody: others are begun
// beside it, and while it lasts, further rounds go over the other servers.
//
// One goroutine owns it; each try has one of its own, for which stop waits.
type hunt struct {
	c     *Client
	mode  wire.Mode
	rival *link // nil, or the connection that we have: another one is wanted

	replies chan reply
	busy    map[string]bool // addresses with a try under way
	slow    map[string]int  // addresses that accepted, but did not answer in time: how often

	todo     []target        // what this round has still to try
	tried    map[string]bool // in this round
	problems []problem       // how tries have ended, one for each address
	follower target          // the last server that named another as leader
	told     time.Time       // when the first did; zero: none has
}

// reply is how far a server has come with its answer.
type reply struct {
	target   target
	accepted bool // the connection; the answer to hello will follow
	link     *link
	err      error
}

// problem is why an address was of no use when it was last tried.
type problem struct {
	addr     string
	err      error
	answered bool // it said something
}

func (c *Client) newHunt(mode wire.Mode, rival *link) *hunt {
	return &hunt{
		c: c, mode: mode, rival: rival,
		replies: make(chan reply), busy: make(map[string]bool), slow: make(map[string]int),
	}
}

// stop ends all tries and waits for them.
func (h *hunt) stop(cancel context.CancelFunc) {
	cancel()
	for len(h.busy) > 0 {
		r := <-h.replies
		if r.accepted {
			continue
		}
		delete(h.busy, r.target.addr)
		if r.link != nil {
			r.link.conn.Close()
		}
	}
}

// round tries each server once, a new one as soon as another has failed or takes
// too long, and returns the first that takes us. It ends without a connection
// when all have failed or take too long.
func (h *hunt) round(ctx context.Context, n int) (*link, error) {
	h.plan()
	timer := time.NewTimer(alone(helloAlone, n))
	defer timer.Stop()
	var last target
	for next, late := true, false; ; {
		t, ok := target{}, false
		if next || len(h.busy) == 0 {
			t, ok = h.next()
		}
		switch {
		case ok:
			last = t
			h.try(ctx, t)
			timer.Reset(alone(dialAlone, n))
		case late || len(h.busy) == 0:
			return nil, h.summary()
		}
		next, late = true, false
		select {
		case <-ctx.Done():
			return nil, h.summary()
		case <-timer.C:
			late = true
		case r := <-h.replies:
			if r.accepted {
				next = false
				if r.target == last {
					timer.Reset(alone(helloAlone, n))
				}
				continue
			}
			if l, err := h.consider(r); l != nil || err != nil {
				return l, err
			}
		}
	}
}

// rest is the time between two rounds. It returns a connection if one comes then.
func (h *hunt) rest(ctx context.Context, d time.Duration) *link {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			return nil
		case r := <-h.replies:
			if r.accepted {
				continue
			}
			if l, _ := h.consider(r); l != nil {
				return l
			}
		}
	}
}

// plan begins a round.
func (h *hunt) plan() {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	h.todo = h.c.book.round()
	h.tried = map[string]bool{"": true}
	if h.rival != nil {
		h.tried[h.rival.addr] = true
	}
}

// next takes the next target.
func (h *hunt) next() (target, bool) {
	for len(h.todo) > 0 {
		t := h.todo[0]
		h.todo = h.todo[1:]
		if !h.tried[t.addr] && !h.busy[t.addr] {
			h.tried[t.addr] = true
			return t, true
		}
	}
	return target{}, false
}

// try begins a try. A server that has been too slow is given more time, up to
// four times as much: it may have many clients to answer, and giving up on it
// again and again would only make more work for it.
func (h *hunt) try(ctx context.Context, t target) {
	h.busy[t.addr] = true
	limit := h.c.cfg.DialTimeout << min(h.slow[t.addr], 2)
	go func() {
		l, err := h.c.connect(ctx, t, h.mode, limit, func() { h.replies <- reply{target: t, accepted: true} })
		h.replies <- reply{target: t, link: l, err: err}
	}()
}

// consider takes account of how a try has ended. It returns the connection if it
// is of use, and an error if the hunt is over without one.
func (h *hunt) consider(r reply) (*link, error) {
	delete(h.busy, r.target.addr)
	var redirect *wire.Redirect
	var refusal *parley.Error
	switch {
	case r.link != nil && (h.rival == nil || r.link.node != h.rival.node):
		return r.link, nil
	case r.link != nil: // the rival itself, by another way
		r.link.conn.Close()
		if !h.c.cfg.Any {
			return nil, errNoOther
		}
	case errors.As(r.err, &redirect):
		if h.rival != nil && redirect.Node == h.rival.node {
			return nil, errNoOther
		}
		h.c.emit(Event{Kind: Redirected, Node: redirect.Node, Addr: redirect.Addr})
		h.follower = r.target
		if h.told.IsZero() {
			h.told = time.Now()
		}
		h.note(problem{r.target.addr, fmt.Errorf("%s: %w", r.target.addr, redirect), true})
		h.c.mu.Lock()
		first, last := h.c.book.follow(redirect.Node, redirect.Addr)
		h.c.mu.Unlock()
		h.todo = append(slices.Insert(h.todo, 0, first), last)
	default:
		if errors.Is(r.err, errSlow) {
			h.slow[r.target.addr]++
		}
		h.note(problem{r.target.addr, r.err, errors.As(r.err, &refusal)})
	}
	return nil, nil
}

// note keeps the latest problem with each address.
func (h *hunt) note(p problem) {
	h.problems = slices.DeleteFunc(h.problems, func(o problem) bool { return o.addr == p.addr })
	h.problems = append(h.problems, p)
}

// summary says what is wrong with all servers.
func (h *hunt) summary() error {
	what := "no server reachable"
	var list []string
	for _, p := range h.problems {
		list = append(list, p.err.Error())
		if p.answered {
			what = "no leader found"
		}
	}
	for addr := range h.busy {
		if !slices.ContainsFunc(h.problems, func(p problem) bool { return p.addr == addr }) {
			list = append(list, addr+": no answer yet")
		}
	}
	return parley.Errorf(parley.CodeNoQuorum, "%s: %s", what, strings.Join(list, "; "))
}
