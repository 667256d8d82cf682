package client

import (
	"context"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
	"github.com/parley-chat/parley/wire"
)

// Get implements [parley.Service]. It asks again until it has an answer or ctx
// ends. A [parley.Status] is asked of any member when there is no leader.
func (c *Client) Get(ctx context.Context, q parley.Query) (parley.Result, error) {
	for try := 0; ; try++ {
		r, err := c.ask(ctx, q)
		if err == nil || !parley.CodeOf(err).Retryable() {
			return r, err
		}
		if !pause.For(ctx, tryWait(try)) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return parley.Result{}, c.gaveUp(ctx, err)
		}
	}
}

// ask asks once, as soon as there is somebody to ask.
func (c *Client) ask(ctx context.Context, q parley.Query) (parley.Result, error) {
	if _, ok := q.(parley.Status); ok && c.current() == nil && !c.isClosed() {
		return c.glance(ctx, q)
	}
	l, err := c.await(ctx)
	if err != nil {
		return parley.Result{}, err
	}
	c.mu.Lock()
	l.began(time.Now())
	c.mu.Unlock()
	c.kick() // so that the manager watches over it

	r, err := l.get(ctx, q)
	now := time.Now()
	c.mu.Lock()
	l.pending--
	if ctx.Err() == nil {
		l.heard = now
		l.judge(now, err)
	}
	c.mu.Unlock()
	if err != nil {
		c.kick()
	}
	return r, err
}

func (c *Client) isClosed() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// glance asks the first member that takes us, leader or not, over a connection
// of its own.
func (c *Client) glance(ctx context.Context, q parley.Query) (parley.Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	h := c.newHunt(wire.ModeAny, nil)
	defer h.stop(cancel)
	l, err := h.round(ctx, 0)
	if l != nil {
		defer l.conn.Close()
		return l.get(ctx, q)
	}
	if c.isClosed() {
		err = closedError(false)
	}
	return parley.Result{}, err
}
