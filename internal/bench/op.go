package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
)

const (
	readEvery    = 5  // Mixed: each fifth command looks into an inbox
	readMessages = 10 // at so many messages
	afterFailure = 100 * time.Millisecond
)

// kind is what the nth command of a sender is.
func (r *run) kind(n int) kind {
	if r.cfg.Mode == List || r.cfg.Mode == Mixed && n%readEvery == readEvery-1 {
		return kindRead
	}
	return kindSend
}

// op is a sender's place for one command at a time. From begin until finish it
// belongs to the command; the rest of the time it is in sender.free.
type op struct {
	s    *sender
	slot int                        // index in sender.ops
	done func(parley.Result, error) // outcome, bound once

	kind  kind
	box   *mailbox
	page  string       // List: last name of the former page
	start atomic.Int64 // a time.Duration; read by readers

	// state is the number of the command, counted from 1, and two bits of what has
	// happened to it. A command is over when all bits are there that it needs.
	state atomic.Uint64
}

// The bits of op.state.
const (
	answered = 1 << iota // the outcome of the command has come
	shown                // a reader has been shown the message
	bits     = answered | shown
	serial   = bits + 1 // adds 1 to the number
)

// begin begins the nth command of the sender.
func (o *op) begin(n int, start time.Duration) {
	s, r := o.s, o.s.r
	o.kind = r.kind(n)
	o.start.Store(int64(start))
	state := o.state.Load()&^bits + serial
	if r.cfg.Mode != E2E {
		state |= shown
	}
	o.state.Store(state)
	at := s.box + n
	if r.cfg.Mode == Mixed {
		at = s.box + n/readEvery + n%readEvery // so that all mailboxes are looked into
	}
	o.box = &r.boxes[at%len(r.boxes)]
	switch {
	case r.cfg.Mode == List:
		o.ask(parley.Users{Pattern: r.cfg.Pattern, After: o.page, Limit: r.cfg.Page})
	case o.kind == kindRead:
		o.ask(parley.Inbox{User: o.box.name, Limit: readMessages})
	default:
		body := r.body
		if r.cfg.Mode == E2E {
			body = tag{s.index, o.slot, state / serial}.body(r.body)
		}
		// Nothing under way is given up before close, which needs no context; one
		// that can end costs something for each command.
		s.session.Start(context.Background(), parley.Send{From: "bench", To: o.box.name, Body: body}, o.done)
	}
}

// ask asks a query in the background, which the sender owns.
func (o *op) ask(q parley.Query) {
	o.s.queries.Go(func() { o.outcome(o.s.client.Get(o.s.end, q)) })
}

// outcome takes down how the command ended.
func (o *op) outcome(res parley.Result, err error) {
	s, r := o.s, o.s.r
	now := r.m.now()
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		o.fail(err)
		return
	}
	if o.kind == kindRead || r.cfg.Mode != E2E { // otherwise the reader does it
		s.shard.completed(o.kind, o.began(), now)
	}
	switch {
	case r.cfg.Mode == List:
		o.page = ""
		if res.More && len(res.Names) > 0 {
			o.page = res.Names[len(res.Names)-1]
		}
	case o.kind == kindSend && r.cfg.Mode != E2E:
		r.arrived(o.box, res.Message)
	}
	if _, over := o.mark(o.number(), answered); over {
		s.free <- o
	}
}

// fail takes down an error. The slot is not used again at once: what fails does so fast.
func (o *op) fail(err error) {
	s := o.s
	s.shard.failed(o.began())
	s.r.problems.add(string(s.r.cfg.Mode), err)
	o.state.Or(bits) // should the message be shown yet, it does not count
	if s.end.Err() != nil {
		s.free <- o
		return
	}
	time.AfterFunc(afterFailure, func() { s.free <- o })
}

// delivered notes that a reader has been shown the message of command n.
func (o *op) delivered(n uint64, now time.Duration) {
	start := o.began() // that of command n, if mark says so
	first, over := o.mark(n, shown)
	if first {
		o.s.shard.completed(kindSend, start, now)
	}
	if over {
		o.s.free <- o
	}
}

// abandon fails a command that was answered and whose message has never been shown.
func (o *op) abandon() {
	if first, _ := o.mark(o.number(), shown); first {
		o.s.shard.failed(o.began())
		o.s.r.problems.add("read", errors.New("a message was acknowledged and not shown in time"))
	}
}

func (o *op) began() time.Duration { return time.Duration(o.start.Load()) }

func (o *op) number() uint64 { return o.state.Load() / serial }

// mark sets a bit of command n. It reports whether it was not set before, and
// whether that was the last one missing.
func (o *op) mark(n, bit uint64) (first, over bool) {
	for {
		state := o.state.Load()
		if n == 0 || state/serial != n || state&bit != 0 {
			return false, false
		}
		if o.state.CompareAndSwap(state, state|bit) {
			return true, (state|bit)&bits == bits
		}
	}
}

// tag is how a message says which command it is of.
type tag struct {
	sender, slot int
	number       uint64
}

const (
	numberBits = 36
	slotBits   = 12
)

// body returns a text that begins with the tag, as long as text.
func (t tag) body(text string) string {
	v := uint64(t.sender)<<(slotBits+numberBits) | uint64(t.slot)<<numberBits | t.number&(1<<numberBits-1)
	return hex16(v) + text[MinE2EBytes:]
}

// parseTag reads the tag of a message; false if it has none.
func parseTag(body string) (tag, bool) {
	if len(body) < MinE2EBytes {
		return tag{}, false
	}
	v, err := strconv.ParseUint(body[:MinE2EBytes], 16, 64)
	if err != nil {
		return tag{}, false
	}
	return tag{int(v >> (slotBits + numberBits)), int(v >> numberBits & (1<<slotBits - 1)), v & (1<<numberBits - 1)}, true
}

func hex16(v uint64) string { return fmt.Sprintf("%016x", v) }
