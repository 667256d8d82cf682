package client

import (
	"math"
	"slices"
	"time"

	"github.com/parley-chat/parley"
)

// lane is what must stay in order: the calls of one session, or a single call
// without one.
//
// A session takes its commands strictly by number, so one rejected call has all
// that follow it turned away as well. The lane is then held: nothing is sent
// until all outcomes of this round are in and a pause is over, then again from
// the lowest call on, no more at a time than limit. The limit falls with each
// round of rejections and rises with each answer, so that n calls that meet a
// full queue or a missing leader cost tries in the order of n, not n².
type lane struct {
	calls    []*call // those not settled, by number
	next     int     // index in calls below which none is waiting
	answered uint64  // highest Request.Answered seen: true for all calls from then on
	flying   int     // calls under way
	limit    int     // most calls under way at a time

	troubled bool      // in queue.trouble
	held     bool      // nothing is sent
	wake     time.Time // held at least until then
	tries    int       // rounds of rejections without an answer in between
	ceded    bool      // in this round, a call went back to its caller
}

// insert puts in a call and reports whether it is the last in order.
func (ln *lane) insert(k *call) bool {
	raised := k.req.Answered > ln.answered
	ln.answered = max(ln.answered, k.req.Answered)
	at, _ := slices.BinarySearchFunc(ln.calls, k.req.Seq, func(c *call, seq uint64) int {
		if c.req.Seq <= seq {
			return -1 // after those of the same number
		}
		return 1
	})
	last := at == len(ln.calls)
	ln.calls = slices.Insert(ln.calls, at, k)
	if ln.next > at {
		ln.next = at
	}
	if ln.ceded && (raised || at == 0) {
		ln.wake = time.Time{} // this may be what the others were waiting for
	}
	return last
}

// index returns where k is in calls.
func (ln *lane) index(k *call) int {
	at, _ := slices.BinarySearchFunc(ln.calls, k.req.Seq, func(c *call, seq uint64) int {
		if c.req.Seq < seq {
			return -1
		}
		return 1
	})
	for at < len(ln.calls) && ln.calls[at] != k {
		at++
	}
	return at
}

// waits reports whether a call waits to be sent.
func (ln *lane) waits() bool {
	for ; ln.next < len(ln.calls); ln.next++ {
		if ln.calls[ln.next].state == waiting {
			return true
		}
	}
	return false
}

// fill sends waiting calls in order as far as the lane's limit and the link's
// room allow.
func (ln *lane) fill(l *link, buf []*call) []*call {
	for ln.waits() && ln.flying < ln.limit && l.room(len(buf)) {
		k := ln.calls[ln.next]
		ln.send(k, l)
		buf = append(buf, k)
	}
	return buf
}

// send notes that k is now under way on l.
func (ln *lane) send(k *call, l *link) {
	k.state, k.link = flying, l
	if k.req.Answered < ln.answered && ln.answered < k.req.Seq {
		k.req.Answered = ln.answered
	}
	ln.flying++
	if l.pending == 0 {
		l.heard = time.Now()
	}
	l.pending++
	l.bytes += k.size()
}

// hold begins a pause after a rejection. A full queue has room for some, so half
// is tried next; for the other reasons one is enough to see whether they last.
func (ln *lane) hold(until time.Time, code parley.Code) {
	ln.held, ln.wake = true, until
	ln.tries++
	switch code {
	case parley.CodeOverloaded, parley.CodeOutOfOrder:
		ln.limit = max(1, min(ln.limit, ln.flying)/2)
	default:
		ln.limit = 1
	}
}

// succeeded notes an answer.
func (ln *lane) succeeded(window int) {
	ln.tries = 0
	switch {
	case ln.limit < window:
		ln.limit++
	default:
		ln.limit = math.MaxInt
	}
}

// remove takes out k, which has been settled.
func (ln *lane) remove(k *call) {
	at := ln.index(k)
	if at == 0 { // as is usual
		ln.calls[0] = nil
		ln.calls = ln.calls[1:]
	} else {
		ln.calls = slices.Delete(ln.calls, at, at+1)
	}
	if ln.next > at {
		ln.next--
	}
}
