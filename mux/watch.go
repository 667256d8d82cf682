package mux

import (
	"context"
	"fmt"
	"iter"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// watchWindow is how many messages a server may send ahead of the consumer.
const watchWindow = 128

// subscription is one watch at the client's end. Its fields are guarded by out.mu.
type subscription struct {
	queue  []parley.Message // arrived, not yet consumed
	credit int              // messages that may still arrive
	over   error            // what the watch ended with, behind the queue
	wake   chan struct{}    // holds one token when queue or over has changed
}

func (w *subscription) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *subscription) end(err error) {
	w.over = err
	w.signal()
}

// Watch is [parley.Service]'s. When the connection is lost it ends with
// CodeInterrupted, after the messages that had arrived.
func (c *Conn) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		id, w, err := c.subscribe(user, after)
		if err != nil {
			yield(parley.Message{}, err)
			return
		}
		defer c.unsubscribe(id)
		consumed := 0
		for {
			if ctx.Err() != nil {
				yield(parley.Message{}, context.Cause(ctx))
				return
			}
			arrived, over := c.arrived(w)
			for _, m := range arrived {
				if !yield(m, nil) {
					return
				}
				if consumed++; consumed == watchWindow/2 {
					c.grant(id, w, consumed)
					consumed = 0
				}
			}
			switch {
			case len(arrived) > 0:
				continue
			case over != nil:
				yield(parley.Message{}, over)
				return
			}
			select {
			case <-w.wake:
			case <-ctx.Done():
			}
		}
	}
}

func (c *Conn) subscribe(user string, after parley.Cursor) (uint64, *subscription, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if err := c.open(); err != nil {
		return 0, nil, err
	}
	c.lastID++
	id := c.lastID
	if err := c.post(&wire.Frame{Kind: wire.KindWatch, ID: id, User: user, After: after, Credit: watchWindow}); err != nil {
		return 0, nil, err
	}
	w := &subscription{credit: watchWindow, wake: make(chan struct{}, 1)}
	c.watches[id] = w
	return id, w, nil
}

// unsubscribe ends the watch if the server has not ended it.
func (c *Conn) unsubscribe(id uint64) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if _, ok := c.watches[id]; !ok {
		return
	}
	delete(c.watches, id)
	if c.err == nil {
		_ = c.post(&wire.Frame{Kind: wire.KindCancel, ID: id}) // it can be encoded
	}
}

// arrived takes what has arrived and says whether that was all.
func (c *Conn) arrived(w *subscription) ([]parley.Message, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	ms := w.queue
	w.queue = nil
	return ms, w.over
}

// grant lets the server send n more messages.
func (c *Conn) grant(id uint64, w *subscription, n int) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.err == nil && w.over == nil {
		w.credit += n
		_ = c.post(&wire.Frame{Kind: wire.KindCredit, ID: id, Credit: uint64(n)}) // it can be encoded
	}
}

func (c *Conn) handlePush(id uint64, ms []parley.Message) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	w := c.watches[id]
	if w == nil {
		return nil // cancelled; this was under way
	}
	if len(ms) > w.credit {
		return fmt.Errorf("%w: %d messages pushed, %d allowed", wire.ErrMalformed, len(ms), w.credit)
	}
	w.credit -= len(ms)
	if len(w.queue) == 0 {
		w.queue = ms
	} else {
		w.queue = append(w.queue, ms...)
	}
	w.signal()
	return nil
}
