package client

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/parley-chat/parley"
)

const (
	batchCalls = 256     // most commands taken from the queue at a time
	linkBytes  = 3 << 20 // most bytes of commands under way on one connection
)

// call is a command from Start until its outcome has been handed over.
type call struct {
	ctx  context.Context // of Start
	req  parley.Request
	done func(parley.Result, error)

	ending *ending // its context's; nil: that never ends
	lane   *lane
	serial uint64 // place in the order of Start
	state  callState
	link   *link // where it is under way, if flying
	maybe  bool  // an earlier try may have taken effect
	last   error // how the last try ended
}

type callState uint8

const (
	waiting callState = iota // to be sent, for the first time or again
	flying                   // sent, no outcome yet
	settled                  // has its outcome, or was given up
)

// repeatable reports whether the command may be sent again once it has been
// written to a connection: if it can be recognised, or repeating it is harmless.
func (k *call) repeatable() bool {
	if k.req.Session != 0 {
		return true
	}
	switch k.req.Command.(type) {
	case parley.Ack, parley.OpenSession:
		return true
	}
	return false
}

// size is about how many bytes the command takes on a connection.
func (k *call) size() int {
	if s, ok := k.req.Command.(parley.Send); ok {
		return 64 + len(s.From) + len(s.To) + len(s.Body)
	}
	return 128
}

// queue holds the commands that have no outcome yet and decides which may be
// sent next. Invariant: every call that is not settled is in its lane, and a
// waiting one is also in fresh or in a troubled lane, so that take finds it.
//
// It neither blocks nor calls anybody; [Client.mu] guards it.
type queue struct {
	window  int                           // most commands without outcome
	backoff func(tries int) time.Duration // how long a lane is held after a rejection
	used    int                           // slots of the window that are taken
	added   uint64                        // calls put in so far
	turns   []*turn                       // who waits for a slot, first come first served
	lanes   map[*lane]struct{}            // all lanes
	byID    map[parley.SessionID]*lane    // those of sessions
	endings endings                       // contexts of the calls
	fresh   []*call                       // never sent, in the order of Start
	trouble []*lane                       // lanes that are held, limited or being sent again
}

// turn is somebody's place in the line for a slot of the window.
type turn struct {
	ready chan struct{} // closed when the slot has been handed over
	given bool
}

func newQueue(window int, backoff func(int) time.Duration) *queue {
	return &queue{
		window:  window,
		backoff: backoff,
		lanes:   make(map[*lane]struct{}),
		byID:    make(map[parley.SessionID]*lane),
		endings: make(endings),
	}
}

// admit takes a slot of the window for r, or returns a place in the line. A
// command that was started before, and whose successors may be waiting for it,
// does not stand in line behind them.
func (q *queue) admit(r parley.Request) *turn {
	ln := q.byID[r.Session]
	again := r.Session != 0 && ln != nil && r.Seq < ln.calls[len(ln.calls)-1].req.Seq
	if again || q.used < q.window && len(q.turns) == 0 {
		q.used++
		return nil
	}
	t := &turn{ready: make(chan struct{})}
	q.turns = append(q.turns, t)
	return t
}

// leave gives up a place in the line, or the slot if it has just been handed over.
func (q *queue) leave(t *turn) {
	if t.given {
		q.free()
		return
	}
	q.turns = slices.DeleteFunc(q.turns, func(o *turn) bool { return o == t })
}

// free returns a slot and hands it to who is first in line.
func (q *queue) free() {
	q.used--
	for len(q.turns) > 0 && q.used < q.window {
		t := q.turns[0]
		q.turns = q.turns[1:]
		q.used++
		t.given = true
		close(t.ready)
	}
}

// add puts in a call for which admit has taken a slot.
func (q *queue) add(k *call) {
	ln := q.byID[k.req.Session]
	if k.req.Session == 0 || ln == nil {
		ln = &lane{limit: math.MaxInt}
		q.lanes[ln] = struct{}{}
		if k.req.Session != 0 {
			q.byID[k.req.Session] = ln
		}
	}
	if q.added++; q.added%uint64(4*q.window) == 0 {
		q.tidy() // without a connection, take does not
	}
	k.lane, k.serial = ln, q.added
	if ln.insert(k) {
		q.fresh = append(q.fresh, k)
	} else {
		q.mark(ln)
	}
}

// mark has the calls of a lane sent by take even if they are not fresh.
func (q *queue) mark(ln *lane) {
	if !ln.troubled {
		ln.troubled = true
		q.trouble = append(q.trouble, ln)
	}
}

// take moves calls that may be sent now from waiting to flying, in the order in
// which they are to be sent, and appends them to buf: no more than batchCalls,
// and none while too many bytes are under way on l. With nothing more to take it
// says when to ask again; the zero time means not before something changes.
func (q *queue) take(now time.Time, l *link, buf []*call) ([]*call, time.Time) {
	var wake time.Time
	keep := q.trouble[:0]
	for _, ln := range q.trouble {
		if ln.held && ln.flying == 0 && !now.Before(ln.wake) {
			ln.held, ln.ceded = false, false
		}
		if !ln.held {
			buf = ln.fill(l, buf)
		}
		switch {
		case len(ln.calls) == 0:
			continue
		case ln.held:
			if ln.flying == 0 && (wake.IsZero() || ln.wake.Before(wake)) {
				wake = ln.wake
			}
		case !ln.waits():
			ln.troubled = false
			continue
		}
		keep = append(keep, ln)
	}
	clear(q.trouble[len(keep):])
	q.trouble = keep

	i := 0
	for ; i < len(q.fresh) && l.room(len(buf)); i++ {
		k := q.fresh[i]
		switch ln := k.lane; {
		case k.state != waiting || ln.troubled: // settled or sent, or goes with its lane
		case ln.flying >= ln.limit:
			q.mark(ln)
		default:
			ln.send(k, l)
			buf = append(buf, k)
		}
	}
	clear(q.fresh[:i])
	q.fresh = q.fresh[i:]
	return buf, wake
}

// outcome records how the try of k over l ended. If that settles k, it returns
// true and what to tell the caller.
func (q *queue) outcome(now time.Time, k *call, l *link, r parley.Result, err error) (bool, parley.Result, error) {
	l.pending--
	l.bytes -= k.size()
	l.heard = now
	switch {
	case k.state == settled:
		return false, r, err
	case err == nil:
		if r.Code.SessionOver() && k.maybe {
			r, err = parley.Result{}, parley.Errorf(parley.CodeOutcomeUnknown,
				"session %d ended while the command was under way", k.req.Session)
		}
		k.lane.succeeded(q.window)
	case k.state != flying || k.link != l:
		return false, r, err // it is, or will be, under way on a newer connection
	case parley.CodeOf(err).Retryable() && (k.repeatable() || l.ended() && parley.CodeOf(err) == parley.CodeShuttingDown):
		// The latter was refused by a connection that had ended before.
		if !q.reject(now, k, err) {
			return false, r, err
		}
		if k.maybe { // out of order now, but nobody can say that about the earlier tries
			err = parley.Errorf(parley.CodeInterrupted, "%v", err)
		}
	}
	q.settle(k)
	return true, r, err
}

// reject makes k wait for another try. It returns true if k has to go back to
// the caller instead: when it is turned away as out of order although nothing
// before it is left here. Then its predecessor has been given up, and only the
// caller can say so, by starting it again with a higher Answered.
func (q *queue) reject(now time.Time, k *call, err error) bool {
	code, ln := parley.CodeOf(err), k.lane
	k.last = err
	k.maybe = k.maybe || !code.NotApplied()
	cede := code == parley.CodeOutOfOrder && !ln.ceded && ln.calls[0] == k && ln.answered <= k.req.Answered
	if !ln.held {
		ln.hold(now.Add(q.backoff(ln.tries)), code)
	}
	q.mark(ln)
	if cede {
		ln.ceded = true
		return true
	}
	k.state = waiting
	ln.flying--
	ln.next = min(ln.next, ln.index(k))
	return false
}

// settle removes k. Late outcomes of it are ignored from now on.
func (q *queue) settle(k *call) {
	ln := k.lane
	if k.state == flying {
		ln.flying--
	}
	k.state = settled
	q.endings.remove(k)
	ln.remove(k)
	if len(ln.calls) == 0 {
		delete(q.lanes, ln)
		if q.byID[k.req.Session] == ln {
			delete(q.byID, k.req.Session)
		}
	}
	q.free()
}

// moved makes everything that may be sent again wait for a new connection, from
// each lane's lowest call on; what was started first goes first.
func (q *queue) moved() {
	for ln := range q.lanes {
		again := false
		for _, k := range ln.calls {
			if k.state == flying && k.repeatable() {
				k.state, k.maybe, again = waiting, true, true
				ln.flying--
			}
		}
		ln.held, ln.ceded, ln.tries, ln.limit, ln.next = false, false, 0, math.MaxInt, 0
		if again {
			q.mark(ln)
		}
	}
	q.tidy()
	slices.SortFunc(q.trouble, func(a, b *lane) int {
		return cmp.Compare(a.calls[0].serial, b.calls[0].serial)
	})
}

// tidy forgets what has been settled without take having come across it.
func (q *queue) tidy() {
	q.fresh = slices.DeleteFunc(q.fresh, func(k *call) bool { return k.state == settled })
	q.trouble = slices.DeleteFunc(q.trouble, func(ln *lane) bool { return len(ln.calls) == 0 })
}

// idle reports whether take would find nothing to send.
func (q *queue) idle() bool { return len(q.fresh) == 0 && len(q.trouble) == 0 }

// all returns the calls that have no outcome yet.
func (q *queue) all() []*call {
	var all []*call
	for ln := range q.lanes {
		all = append(all, ln.calls...)
	}
	return all
}
