package tcp

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

const (
	// ackEvery is the pause between two acknowledgements of a mailbox while mail
	// is streaming, unless ackCount messages come together first.
	ackEvery = 50 * time.Millisecond
	ackCount = 100
	// pollMin and pollMax bound the pause between two looks at the send queue.
	pollMin = time.Millisecond
	pollMax = 250 * time.Millisecond
)

// reads finds out which messages a classic client's TCP has confirmed, and
// acknowledges those: classic clients say nothing themselves, and that bytes
// were written does not mean that anybody got them.
//
// written is called by the writing goroutine. Another, run, acknowledges, for as
// long as there is something that is not confirmed or not acknowledged.
type reads struct {
	log     *slog.Logger
	metrics *metrics
	probe   probe         // nil: nothing is known to have been received, ever
	exact   bool          // the bytes of the connection are those of the TCP stream
	timeout time.Duration // for one acknowledgement
	stall   time.Duration // without any confirmation: stalled is called
	stalled func()

	running sync.WaitGroup // run

	mu     sync.Mutex
	active bool               // run is going to look again
	stop   context.CancelFunc // ends run; nil if there has never been one
	sent   []sent             // written and not confirmed, oldest first
	due    []due              // confirmed and not acknowledged, one per user
	moved  time.Time
	acked  time.Time     // when something was last acknowledged; run's own
	signal chan struct{} // has a token when sent has grown; nil until it has
}

type sent struct {
	mark
	position uint64 // in the TCP stream, up to where it must be confirmed
}

// due is what is to be acknowledged in one mailbox.
type due struct {
	svc    parley.Service
	user   string
	cursor parley.Cursor
	count  int // messages
}

// written takes note of messages that the kernel has been given, with everything
// up to an offset. Until ctx ends, they are acknowledged once they are confirmed.
func (r *reads) written(ctx context.Context, marks []mark, offset int) {
	if r.probe == nil {
		return
	}
	position, err := r.probe.position()
	if err != nil {
		return // the connection is gone: they stay unread
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sent) == 0 {
		r.moved = time.Now()
	}
	for _, m := range marks {
		p := position
		if r.exact { // otherwise a message is of use only with the TLS record around it
			p -= uint64(offset - m.end)
		}
		r.sent = append(r.sent, sent{m, p})
	}
	if r.signal == nil {
		r.signal = make(chan struct{}, 1)
	}
	select {
	case r.signal <- struct{}{}:
	default:
	}
	if !r.active {
		r.active = true
		ctx, r.stop = context.WithCancel(ctx)
		r.running.Go(func() { r.run(ctx) })
	}
}

// close ends run and waits for it. Nothing is written afterwards.
func (r *reads) close() {
	r.mu.Lock()
	stop := r.stop
	r.mu.Unlock()
	if stop != nil {
		stop()
		r.running.Wait()
	}
}

// run acknowledges what is confirmed until that is all there was, or ctx ends.
func (r *reads) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	poll := pollMin
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.signal:
			poll = pollMin
		case <-timer.C:
			poll = min(2*poll, pollMax)
		}
		progress, open := r.look()
		if progress {
			poll = pollMin
		}
		wait := time.Duration(-1)
		if open {
			wait = poll
		}
		if n := r.dueCount(); n > 0 {
			if n >= ackCount || time.Since(r.acked) >= ackEvery {
				n = r.acknowledge(ctx)
				r.acked = time.Now()
			}
			if n > 0 && (wait < 0 || wait > ackEvery) {
				wait = ackEvery
			}
		}
		if wait < 0 && r.rest() {
			return
		}
		timer.Reset(max(wait, 0))
	}
}

// rest ends run, unless there is more to look at.
func (r *reads) rest() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active = len(r.signal) > 0; !r.active {
		r.stop()
	}
	return !r.active
}

// look moves what has been confirmed from sent to due. It reports whether there
// was any, and whether more may come.
func (r *reads) look() (progress, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sent) == 0 {
		return false, false
	}
	c, err := r.probe.confirmed()
	if err != nil {
		return false, false // the connection is gone
	}
	n := 0
	for n < len(r.sent) && (c.empty || r.sent[n].position <= c.upTo) {
		r.add(r.sent[n].mark)
		n++
	}
	if n > 0 {
		r.moved = time.Now()
		r.metrics.confirmed.Add(float64(n))
		r.sent = append(r.sent[:0], r.sent[n:]...)
	}
	if len(r.sent) > 0 && time.Since(r.moved) > r.stall {
		r.stalled()
	}
	return n > 0, c.alive && len(r.sent) > 0
}

// add makes m due. mu is held.
func (r *reads) add(m mark) {
	for i := range r.due {
		if d := &r.due[i]; d.user == m.user {
			if d.cursor.Incarnation != m.cursor.Incarnation {
				d.count = 0
			}
			d.svc, d.cursor = m.svc, m.cursor
			d.count++
			return
		}
	}
	r.due = append(r.due, due{m.svc, m.user, m.cursor, 1})
}

func (r *reads) dueCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, d := range r.due {
		n += d.count
	}
	return n
}

// acknowledge acknowledges what is due. It returns for how many messages that
// failed, which stay due.
func (r *reads) acknowledge(ctx context.Context) (failed int) {
	r.mu.Lock()
	todo := r.due
	r.due = nil
	r.mu.Unlock()
	for _, d := range todo {
		if err := r.ack(ctx, d); err != nil {
			r.log.Debug("acknowledgement failed", "user", d.user, "up_to", d.cursor.ID, "error", err)
			r.mu.Lock()
			r.putBack(d)
			r.mu.Unlock()
			failed += d.count
		}
	}
	return failed
}

// putBack makes d due again, unless a later position is. mu is held.
func (r *reads) putBack(d due) {
	for i := range r.due {
		if r.due[i].user == d.user {
			return // what was confirmed later includes it, or is of a new incarnation
		}
	}
	r.due = append(r.due, d)
}

// ack acknowledges one mailbox, with some patience. An acknowledgement needs no
// session: it says the same thing each time.
func (r *reads) ack(ctx context.Context, d due) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	request := parley.Request{Command: parley.Ack{User: d.user, UpTo: d.cursor}}
	return retry(ctx, func() error {
		_, err := parley.Do(ctx, d.svc, request) // no such user (any more), or login: just as well
		return err
	})
}

// settle waits until everything is confirmed, for as long as patience lasts and
// the connection is still there.
func (r *reads) settle(ctx context.Context, patience time.Duration) {
	for end, poll := time.Now().Add(patience), pollMin; ; poll *= 2 {
		if _, open := r.look(); !open || time.Now().After(end) || !pause.For(ctx, poll) {
			return
		}
	}
}
