package lab

import (
	"context"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/check"
)

// reader watches a mailbox and goes on after the last message whenever the watch
// ends. One that acknowledges begins anew now and then, when all that it was
// shown has been acknowledged: what is shown then must be new.
type reader struct {
	l    *Load
	box  string
	seen *check.Reader
	acks bool

	at      parley.Cursor // the last message shown
	pending parley.Cursor // the last one that is not known to be acknowledged
}

func (r *reader) run(c *Client) {
	rng := r.l.rng("reader" + r.box)
	for r.l.end.Err() == nil {
		ctx, cancel := context.WithTimeout(r.l.end, time.Duration(rng.Int64N(int64(10*time.Second))))
		err := r.watch(ctx, c)
		cancel()
		switch {
		case parley.CodeOf(err) == parley.CodeNoSuchUser:
			r.at, r.pending = parley.Cursor{}, parley.Cursor{} // deleted, and perhaps created again
		case r.acks && r.ack(c) && rng.IntN(2) == 0:
			r.at = parley.Cursor{}
		}
		wait(r.l.end, time.Duration(rng.Int64N(int64(50*time.Millisecond))))
	}
}

// watch shows what comes until the watch ends.
func (r *reader) watch(ctx context.Context, c *Client) error {
	for m, err := range c.Watch(ctx, r.box, r.at) {
		if err != nil {
			return err
		}
		r.seen.Deliver(m)
		r.at, r.pending = m.Cursor, m.Cursor
		if r.acks && m.ID%4 == 0 {
			r.ack(c)
		}
	}
	return nil
}

// ack acknowledges what was shown, and reports whether all of it is.
func (r *reader) ack(c *Client) bool {
	if r.pending == (parley.Cursor{}) {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	res, err := parley.Do(ctx, c, parley.Request{Command: parley.Ack{User: r.box, UpTo: r.pending}})
	if err != nil || res.Code != parley.CodeOK {
		return false
	}
	r.pending = parley.Cursor{}
	return true
}
