package lab

import (
	"context"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/parley-chat/parley"
)

// Client is the cluster as a program on another host sees it. It talks to one
// member at a time and goes to another one when that cannot help. It sends
// nothing again by itself, which is what parley.Session is for.
type Client struct {
	port    *Port
	members []string

	mu  sync.Mutex
	rng *rand.Rand
	now string // the member that it talks to
}

var _ parley.Service = (*Client)(nil)

// NewClient makes a client on a host of its own.
func NewClient(n *Net, host string, members []string, rng *rand.Rand) *Client {
	return &Client{
		port: n.Listen(host, nil), members: members, rng: rng, now: members[rng.IntN(len(members))],
	}
}

// Close ends its connections.
func (c *Client) Close() { c.port.Kill() }

func (c *Client) member() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// leave looks for another member, or follows a hint, unless that has been done.
func (c *Client) leave(member string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == member {
		c.now = c.members[c.rng.IntN(len(c.members))]
	}
}

// Start implements parley.Service.
func (c *Client) Start(_ context.Context, r parley.Request, done func(parley.Result, error)) {
	member := c.member()
	conn, err := c.port.dial(member)
	if err != nil {
		c.leave(member, err)
		done(parley.Result{}, err)
		return
	}
	conn.start(r, false, func(r parley.Result, err error) {
		if err != nil {
			c.leave(member, err)
		}
		done(r, err)
	})
}

// askEvery is how long a question to one member may take.
const askEvery = 2 * time.Second

// Get implements parley.Service.
func (c *Client) Get(ctx context.Context, q parley.Query) (r parley.Result, err error) {
	member := c.member()
	ctx, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	conn, err := c.port.dial(member)
	if err == nil {
		r, err = ask(ctx, conn, func(ctx context.Context) (parley.Result, error) { return conn.target().Get(ctx, q) })
	}
	if err != nil {
		c.leave(member, err)
	}
	return r, err
}

// Watch implements parley.Service.
func (c *Client) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		member := c.member()
		conn, err := c.port.dial(member)
		if err != nil {
			c.leave(member, err)
			yield(parley.Message{}, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(conn.ctx, cancel)()
		for m, err := range conn.target().Watch(ctx, user, after) {
			if !conn.pass(conn.to.name, conn.from.name) {
				err = conn.interrupted()
			}
			if err != nil {
				c.leave(member, err)
				yield(parley.Message{}, err)
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}
