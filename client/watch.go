package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

// Watch implements [parley.Service]. It goes on after the last message that was
// yielded when the connection is lost, on whichever connection comes next, so
// that none is missing and none comes twice. It ends with CodeNoSuchUser when
// the user is deleted, even if the name is taken again at once.
//
// A consumer may be as slow as it likes: the server holds back what does not fit
// into a small window, and nothing else on the connection waits for it.
func (c *Client) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		after, err := c.pin(ctx, user, after)
		for try := 0; err == nil; try++ {
			var l *link
			if l, err = c.await(ctx); err != nil {
				break
			}
			if err = l.denied.Err(); err != nil {
				break
			}
			for m, werr := range l.conn.Watch(ctx, user, after) {
				if werr != nil {
					err = werr
					break
				}
				if m.Incarnation == after.Incarnation && m.ID <= after.ID {
					continue
				}
				if !yield(m, nil) {
					return
				}
				after, try = m.Cursor, 0
			}
			if ctx.Err() == nil && (err == nil || parley.CodeOf(err).Retryable()) {
				c.mu.Lock()
				l.judge(time.Now(), err)
				c.mu.Unlock()
				c.kick()
				err = nil
				pause.For(ctx, tryWait(try))
			}
		}
		if ctx.Err() != nil {
			err = c.watchEnd(ctx, err)
		}
		yield(parley.Message{}, err)
	}
}

// pin says which incarnation "all unread mail" is about, so that it stays with
// that one.
func (c *Client) pin(ctx context.Context, user string, after parley.Cursor) (parley.Cursor, error) {
	if after != (parley.Cursor{}) {
		return after, nil
	}
	r, err := c.Get(ctx, parley.Inbox{User: user, Limit: -1})
	if err == nil {
		err = r.Err()
	}
	return r.Cursor, err
}

// watchEnd is the context's error, and with a deadline also what stood in the way.
func (c *Client) watchEnd(ctx context.Context, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	why := c.gaveUp(ctx, nil)
	if c.link != nil || errors.Is(why, ctx.Err()) {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", why, ctx.Err())
}

// How Receive acknowledges.
const (
	ackMessages = 100                   // at the latest after so many messages
	ackDelay    = 50 * time.Millisecond // or so long after the first of them
	lastAck     = time.Second           // how long the last one may take
)

// Receive is Watch for a reader that takes its mail: what it yields is removed
// from the unread queue. A message counts as read when the loop asks for the
// next one; the one at which the loop is left does not, and comes again.
//
// Acknowledgements are cumulative and follow within 50 ms or 100 messages, and
// when the loop ends. If they get lost because the connection does, messages
// are not yielded again by this loop, but may be by the next.
func (c *Client) Receive(ctx context.Context, user string, from parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		a := acker{
			client: c,
			user:   user,
			read:   make(chan struct{}, 1),
			full:   make(chan struct{}, 1),
			last:   make(chan struct{}),
			done:   make(chan struct{}),
		}
		go a.run(ctx)
		defer a.stop()
		for m, err := range c.Watch(ctx, user, from) {
			if !yield(m, err) {
				return
			}
			if err == nil {
				a.add(m.Cursor)
			}
		}
	}
}

// acker acknowledges in the background what a loop has read. The loop owns it
// and never waits for it but in stop.
type acker struct {
	client *Client
	user   string
	read   chan struct{} // there is something to acknowledge
	full   chan struct{} // there is enough
	last   chan struct{} // closed: nothing more will come
	done   chan struct{} // closed: run has ended

	mu   sync.Mutex
	upTo parley.Cursor
	n    int
}

func (a *acker) add(upTo parley.Cursor) {
	a.mu.Lock()
	a.upTo = upTo
	a.n++
	n := a.n
	a.mu.Unlock()
	poke(a.read)
	if n >= ackMessages {
		poke(a.full)
	}
}

func (a *acker) stop() {
	close(a.last)
	<-a.done
}

func (a *acker) run(ctx context.Context) {
	defer close(a.done)
	delay := time.NewTimer(ackDelay)
	defer delay.Stop()
	for {
		select {
		case <-a.read:
			delay.Reset(ackDelay)
		case <-a.last:
			a.flush(context.WithoutCancel(ctx))
			return
		}
		select {
		case <-delay.C:
		case <-a.full:
		case <-a.last:
		}
		if ctx.Err() == nil {
			a.flush(ctx)
		}
	}
}

// flush acknowledges what has been read. After a failure it is due again.
func (a *acker) flush(ctx context.Context) {
	a.mu.Lock()
	upTo, n := a.upTo, a.n
	a.n = 0
	a.mu.Unlock()
	if n == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastAck)
	defer cancel()
	ack := parley.Request{Command: parley.Ack{User: a.user, UpTo: upTo}}
	if _, err := parley.Do(ctx, a.client, ack); err != nil {
		a.mu.Lock()
		a.n++
		a.mu.Unlock()
		poke(a.read)
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
