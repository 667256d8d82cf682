package bench

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

// idleConn is a connection that does nothing.
type idleConn struct {
	client    Client
	connected chan struct{} // closed by the first connection
	once      sync.Once
	lost      atomic.Bool
}

// idle opens the connections, keeps them for the duration, and counts those that
// stayed. The measured part is the opening.
func (r *run) idle(ctx context.Context) error {
	if err := r.sample(ctx, &r.before); err != nil {
		return err
	}
	conns := make([]*idleConn, r.cfg.Senders)
	defer func() {
		_ = parallel(context.Background(), len(conns), func(i int) error {
			if conns[i] != nil {
				_ = conns[i].client.Close()
			}
			return nil
		})
	}()
	r.m = newMeter(0, time.Hour*24*365)
	drained := make(chan struct{})
	var follower sync.WaitGroup
	follower.Go(func() { r.m.follow(drained, r.cfg.Progress) })
	opening, cancel := context.WithTimeout(ctx, r.cfg.Patience+time.Duration(r.cfg.Senders)*10*time.Millisecond)
	err := parallel(opening, len(conns), func(i int) (err error) {
		conns[i], err = r.openIdle(opening, i)
		return err
	})
	cancel()
	r.m.cut()
	close(drained)
	follower.Wait()
	if err == nil {
		pause.For(ctx, r.cfg.Duration)
		err = r.sample(ctx, &r.after)
	}
	for _, c := range conns {
		if c == nil {
			continue
		}
		r.opened++
		if !c.lost.Load() {
			r.stayed++
		}
	}
	return err
}

// openIdle makes a client and waits until it is connected.
func (r *run) openIdle(ctx context.Context, i int) (*idleConn, error) {
	c := &idleConn{connected: make(chan struct{})}
	start := r.m.now()
	var err error
	c.client, err = r.cfg.Dial(func(connected bool) {
		if connected {
			c.once.Do(func() { close(c.connected) })
			return
		}
		c.lost.Store(true)
		r.connection(false)
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-c.connected:
		r.m.shard(i).completed(kindRead, start, r.m.now())
		return c, nil
	case <-ctx.Done():
		err := because(c.client, parley.Errorf(parley.CodeNoQuorum, "connection %d was not made in time", i+1))
		_ = c.client.Close()
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, ctx.Err()
		}
		return nil, err
	}
}
