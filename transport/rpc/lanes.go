package rpc

import (
	"context"
	"sync"
	"time"

	"github.com/parley-chat/parley"
)

// lanes keeps the commands of each client's session in the order of their
// numbers. Each call has a goroutine of its own, so that calls begun one right
// after the other overtake each other on their way through the gateway, and the
// service would turn away those that come early.
type lanes struct {
	mu  sync.Mutex
	all map[parley.SessionID]*lane
}

// lane is a session as far as it has come by here. A command is started when its
// predecessor has been; if that does not come by here, after a while all the
// same, for other nodes serve the session too.
type lane struct {
	users int // calls that use the lane; guarded by lanes.mu

	mu    sync.Mutex
	next  uint64                   // numbers up to it may be started
	here  map[uint64]int           // calls that are here and have nothing under way, by number
	turns map[uint64]chan struct{} // closed when the number may be started
}

const (
	// turnWait is how long a command waits that has no predecessor here.
	turnWait = 50 * time.Millisecond
	// maxLanes bounds the lanes that are remembered without being used.
	maxLanes = 4096
)

// enter returns the lane of a session, to be left afterwards.
func (l *lanes) enter(id parley.SessionID) *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.all[id]
	if ln == nil {
		if len(l.all) >= maxLanes {
			l.forget()
		}
		ln = &lane{here: make(map[uint64]int), turns: make(map[uint64]chan struct{})}
		l.all[id] = ln
	}
	ln.users++
	return ln
}

func (l *lanes) leave(ln *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln.users--
}

// forget drops a lane that nobody uses. mu is held.
func (l *lanes) forget() {
	for id, ln := range l.all {
		if ln.users == 0 {
			delete(l.all, id)
			return
		}
	}
}

// arrive and depart frame the calls that come with a number.
func (ln *lane) arrive(r parley.Request) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.here[r.Seq]++
	ln.advance(r.Answered + 1) // what has been answered need not come by here
}

func (ln *lane) depart(seq uint64) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.away(seq)
}

// away takes note of a call less that has nothing under way. mu is held.
func (ln *lane) away(seq uint64) {
	if ln.here[seq]--; ln.here[seq] == 0 {
		delete(ln.here, seq)
	}
}

// do starts a request when it is its turn, and waits for its outcome.
func (ln *lane) do(ctx context.Context, svc parley.Service, r parley.Request) (parley.Result, error) {
	type outcome struct {
		result parley.Result
		err    error
	}
	ch := make(chan outcome, 1)
	ln.mu.Lock()
	ln.await(ctx, r.Seq)
	// Within mu, so that starts have the order of the numbers. It does not block.
	svc.Start(ctx, r, func(result parley.Result, err error) { ch <- outcome{result, err} })
	ln.away(r.Seq)
	ln.advance(r.Seq + 1)
	ln.mu.Unlock()

	var o outcome
	select {
	case o = <-ch:
	case <-ctx.Done():
		select {
		case o = <-ch: // both were ready: the outcome is worth more
		default:
			o.err = context.Cause(ctx)
		}
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.here[r.Seq]++
	if o.err != nil { // those behind it must come behind its next try
		ln.next = min(ln.next, r.Seq)
	}
	return o.result, o.err
}

// advance lets numbers up to next be started. mu is held.
func (ln *lane) advance(next uint64) {
	if next <= ln.next {
		return
	}
	if next-ln.next > uint64(len(ln.turns)) {
		for seq := range ln.turns {
			if seq <= next {
				ln.call(seq)
			}
		}
	} else {
		for seq := ln.next; seq < next; { // next may be the last number there is
			seq++
			ln.call(seq)
		}
	}
	ln.next = next
}

// call calls those that wait for the turn of a number. mu is held.
func (ln *lane) call(seq uint64) {
	if turn := ln.turns[seq]; turn != nil {
		close(turn)
		delete(ln.turns, seq)
	}
}

// await waits until a number may be started, or nothing is left here that it
// could wait for. mu is held, but not while waiting.
func (ln *lane) await(ctx context.Context, seq uint64) {
	for seq > ln.next && ctx.Err() == nil {
		turn := ln.turns[seq]
		if turn == nil {
			turn = make(chan struct{})
			ln.turns[seq] = turn
		}
		ln.mu.Unlock()
		late := false
		patience := time.NewTimer(turnWait)
		select {
		case <-turn:
		case <-patience.C:
			late = true
		case <-ctx.Done():
		}
		patience.Stop()
		ln.mu.Lock()
		if late && ln.first(seq) {
			return
		}
	}
}

// first reports whether no lower number is here. mu is held.
func (ln *lane) first(seq uint64) bool {
	for s := range ln.here {
		if s < seq {
			return false
		}
	}
	return true
}
