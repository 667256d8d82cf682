package lab

import (
	"context"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/node"
)

// conn is a connection from a process to a member, for commands and calls, until
// one of the two dies, the network resets it or a message takes too long. What is
// under way then is interrupted; it may have arrived, or still arrive.
type conn struct {
	from, to *Port
	closed   chan struct{}
	once     sync.Once
	ctx      context.Context // of what arrives at the other end
	cancel   context.CancelFunc
	reset    <-chan struct{}

	mu     sync.Mutex
	queue  []func() // what is to be delivered, in order
	moving bool     // somebody carries the queue
}

// dial returns the connection to a member, which is made when there is none.
func (p *Port) dial(to string) (*conn, error) {
	q := p.net.port(to)
	there := q != nil && q.served() != nil
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[to]; c != nil && !c.isClosed() {
		return c, nil
	}
	if !there || p.dead() {
		return nil, parley.Errorf(parley.CodeNotLeader, "no connection to %s", to)
	}
	c := &conn{from: p, to: q, closed: make(chan struct{}), reset: p.net.broken(p.name, to)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	p.conns[to] = c
	go func() {
		select {
		case <-c.closed:
		case <-c.reset:
		case <-p.gone:
		case <-q.gone:
		}
		c.close()
	}()
	return c, nil
}

func (c *conn) target() *node.Node { return c.to.served() }

func (c *conn) close() {
	c.once.Do(func() {
		close(c.closed)
		c.cancel()
	})
}

func (c *conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return c.from.dead() || c.to.dead()
	}
}

func (c *conn) interrupted() error {
	return parley.Errorf(parley.CodeInterrupted, "connection to %s lost", c.to.name)
}

// start sends a command. forwarded says that the member must not pass it on.
func (c *conn) start(r parley.Request, forwarded bool, done func(parley.Result, error)) {
	settle := first(done)
	stop := context.AfterFunc(c.ctx, func() { settle(parley.Result{}, c.interrupted()) })
	c.push(func() {
		if c.to.dead() {
			return
		}
		n := c.target()
		var to parley.Service = n
		if forwarded {
			to = n.Local()
		}
		to.Start(context.WithoutCancel(c.ctx), r, func(r parley.Result, err error) {
			go func() {
				if c.pass(c.to.name, c.from.name) {
					stop()
					settle(r, err)
				}
			}()
		})
	})
}

// first lets only the first outcome through.
func first(done func(parley.Result, error)) func(parley.Result, error) {
	var once sync.Once
	return func(r parley.Result, err error) { once.Do(func() { done(r, err) }) }
}

// push queues a delivery behind those before it.
func (c *conn) push(deliver func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, deliver)
	if !c.moving {
		c.moving = true
		go c.move()
	}
}

// move carries what is queued, all of it in one go each time. What was sent may
// arrive although the connection is closed.
func (c *conn) move() {
	for {
		c.mu.Lock()
		now := c.queue
		c.queue = nil
		c.moving = len(now) > 0
		c.mu.Unlock()
		if len(now) == 0 {
			return
		}
		limit := time.AfterFunc(idleBreaks, c.close)
		f := c.from.net.carry(c.from.name, c.to.name)
		limit.Stop()
		if f == lost || c.from.dark.Load() {
			c.close()
			continue
		}
		for _, deliver := range now {
			deliver()
		}
	}
}

// pass carries an answer, and reports whether it arrives before the connection
// is given up.
func (c *conn) pass(from, to string) bool {
	limit := time.AfterFunc(idleBreaks, c.close)
	defer limit.Stop()
	if c.from.net.carry(from, to) == lost || c.from.dark.Load() || c.to.dark.Load() {
		c.close()
	}
	return !c.isClosed()
}

// ask has a question answered by the other end, on a goroutine there.
func ask[T any](ctx context.Context, c *conn, answer func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	ch := make(chan outcome, 1)
	var none T
	there, cancel := context.WithCancel(c.ctx)
	defer cancel()
	go func() {
		if !c.pass(c.from.name, c.to.name) {
			return
		}
		value, err := answer(there)
		if c.pass(c.to.name, c.from.name) {
			ch <- outcome{value, err}
		}
	}()
	select {
	case o := <-ch:
		return o.value, o.err
	case <-c.closed:
		return none, c.interrupted()
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}
