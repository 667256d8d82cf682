package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley"
)

// maxWindow is the most commands of one session that servers keep replies for.
const maxWindow = 4096

// Config configures a [Client].
type Config struct {
	// Servers are addresses (host:port) of some members. One that is up is enough;
	// the others are found through it. Required.
	Servers []string
	// Any: stay connected to whichever member answers, leader or not, and let it
	// forward. Costs a hop; right where only some members can be reached, and for
	// asking about a cluster without a leader. Default: follow the leader.
	Any bool
	// TLS, if not nil, is used for all connections. Without a ServerName the host
	// of each address is expected in the certificate.
	TLS *tls.Config
	// Credentials, if not nil, says what to log in with; it is asked anew for each
	// connection, so after each failover too. If it fails, the connection is not used.
	// If the server refuses what it says, commands, queries and watches end with
	// CodeUnauthenticated until the next connection. See [Static]. Default: nobody
	// logs in, which is enough where the cluster is open.
	Credentials func(ctx context.Context) (parley.Credentials, error)
	// Window is the most commands without outcome; [Client.Start] waits beyond it.
	// Default 1,024, at most 4,096.
	Window int
	// DialTimeout is how long a server may take to accept a connection, and then
	// again to answer hello; default 1 s. Others are tried meanwhile, so that only a
	// network that is slower needs more. A server that accepts and does not answer
	// in time is given up to four times as much for the latter when it is tried
	// again. This and Patience are shortened by up to a quarter, at random, so that
	// many clients do not give up at the same moment.
	DialTimeout time.Duration
	// Patience is how long the server may leave everything unanswered before the
	// others are asked whether another one leads now; default 400 ms. Asking costs
	// one of them an answer; more where disks often stall for longer.
	Patience time.Duration
	// PingEvery is the time between two pings on an idle connection; default 10 s.
	// A server that is silent for three times as long is given up.
	PingEvery time.Duration
	// Events, if not nil, is told what happens to the connection, one event at a
	// time. It must not block and must not call Close.
	Events func(Event)
	// Dial makes connections; default a net.Dialer. For tunnels.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger; nil: none. Events are logged at level debug.
	Logger *slog.Logger
}

func (cfg Config) withDefaults() (Config, error) {
	if len(cfg.Servers) == 0 {
		return cfg, errors.New("client: no servers given")
	}
	for _, addr := range cfg.Servers {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return cfg, fmt.Errorf("client: server %q: want host:port", addr)
		}
	}
	if cfg.Window < 0 || cfg.Window > maxWindow {
		return cfg, fmt.Errorf("client: window %d: want 1 to %d", cfg.Window, maxWindow)
	}
	setDefault(&cfg.Window, 1024)
	setDefault(&cfg.DialTimeout, time.Second)
	setDefault(&cfg.Patience, 400*time.Millisecond)
	setDefault(&cfg.PingEvery, 10*time.Second)
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Servers = slices.Clone(cfg.Servers)
	return cfg, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Client is a [parley.Service] over the network. It is safe for concurrent use.
//
// One goroutine, the manager, owns the connection: it alone looks for servers,
// adopts connections and sends commands. Calls that start commands only put them
// into the queue; outcomes arrive on the goroutine that reads the connection.
type Client struct {
	cfg Config
	log *slog.Logger

	cancel  context.CancelFunc // ends the manager
	closing chan struct{}      // closed by Close
	stopped chan struct{}      // closed when the manager has ended
	kicked  chan struct{}      // holds one token: the manager should look again

	mu      sync.Mutex
	closed  bool
	queue   *queue
	book    *book
	link    *link         // nil: not connected
	linked  chan struct{} // closed when link changes from nil
	trouble error         // why there is no connection

	eventMu sync.Mutex // one event at a time
}

var _ parley.Service = (*Client)(nil)

// New returns a client and begins to look for servers. It fails only if the
// configuration is wrong; [Client.Close] must be called at the end.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{
		cfg:     cfg,
		log:     cfg.Logger,
		cancel:  cancel,
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
		kicked:  make(chan struct{}, 1),
		queue:   newQueue(cfg.Window, tryWait),
		book:    newBook(cfg.Servers),
		linked:  make(chan struct{}),
	}
	go c.manage(ctx)
	return c, nil
}

// Close ends the connection and everything under way, and waits for the client's
// goroutines. Commands without an outcome get an error that is not worth a retry:
// CodeOutcomeUnknown if they may have taken effect, CodeBadRequest if not.
func (c *Client) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.closing)
	}
	c.mu.Unlock()
	c.cancel()
	<-c.stopped

	c.mu.Lock()
	calls := c.queue.all()
	for _, k := range calls {
		c.queue.settle(k)
	}
	c.mu.Unlock()
	for _, k := range calls {
		c.finish(k, parley.Result{}, closedError(k.maybe || k.link != nil))
	}
	return nil
}

func closedError(maybe bool) error {
	if maybe {
		return parley.Errorf(parley.CodeOutcomeUnknown, "the client was closed before the answer came")
	}
	return parley.Errorf(parley.CodeBadRequest, "the client is closed")
}

// Session returns a new session over the client: the way to run commands so
// that they take effect exactly once. Nothing is sent before its first use.
func (c *Client) Session() *parley.Session { return parley.NewSession(c) }

// Node returns the id and address of the member that the client is connected
// to, or two empty strings.
func (c *Client) Node() (id, addr string) {
	if l := c.current(); l != nil {
		return l.node, l.addr
	}
	return "", ""
}

// Trouble says why the client is not connected; nil if it is, or has only just
// begun to look.
func (c *Client) Trouble() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		return nil
	}
	return c.trouble
}

// Start implements [parley.Service]. It waits while the window is full, until
// another command has its outcome or ctx ends; done must therefore not call it.
//
// A command of a session is sent again, under the same number, after the
// connection was lost or the server turned it away, until it has an answer or
// ctx ends; Ack and OpenSession without a session too. Any other command without
// a session is sent once: if the outcome gets lost it ends with CodeInterrupted.
// Commands of one session keep their order in all this. The order across
// sessions is that of Start as long as nothing has to be sent again.
//
// When ctx's deadline passes, the outcome is CodeNoQuorum with what stood in the
// way; a cancelled ctx gives its own error.
func (c *Client) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	k := &call{ctx: ctx, req: r, done: done}
	if err := c.enqueue(ctx, k); err != nil {
		done(parley.Result{}, err)
		return
	}
	c.kick()
}

// enqueue puts k into the queue, when its turn has come.
func (c *Client) enqueue(ctx context.Context, k *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return c.gaveUp(ctx, nil)
	}
	if c.closed {
		return closedError(false)
	}
	if t := c.queue.admit(k.req); t != nil {
		c.mu.Unlock()
		select {
		case <-t.ready:
		case <-ctx.Done():
		case <-c.closing:
		}
		c.mu.Lock()
		if c.closed || ctx.Err() != nil {
			c.queue.leave(t)
			if c.closed {
				return closedError(false)
			}
			return c.gaveUp(ctx, parley.Errorf(parley.CodeOverloaded, "%d commands are under way", c.cfg.Window))
		}
	}
	c.queue.add(k)
	c.queue.endings.add(k, c.abandon)
	return nil
}

// abandon ends the calls of which the context, known by its Done, has ended.
func (c *Client) abandon(done <-chan struct{}) {
	c.mu.Lock()
	var ended []*call
	for _, k := range c.queue.all() {
		if k.ctx.Done() == done {
			c.queue.settle(k)
			k.last = c.gaveUp(k.ctx, k.last)
			ended = append(ended, k)
		}
	}
	c.mu.Unlock()
	if len(ended) > 0 {
		c.kick() // others may have waited for them
	}
	for _, k := range ended {
		c.finish(k, parley.Result{}, k.last)
	}
}

// finish tells the caller. Whoever has settled k calls it, once.
func (c *Client) finish(k *call, r parley.Result, err error) { k.done(r, err) }

// kick has the manager look at the queue and the link.
func (c *Client) kick() {
	select {
	case c.kicked <- struct{}{}:
	default:
	}
}

// gaveUp says why something ended with ctx, of which the last try, if any, ended
// with err. mu is held.
func (c *Client) gaveUp(ctx context.Context, err error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	if c.link == nil && c.trouble != nil {
		err = c.trouble
	}
	var e *parley.Error
	switch {
	case errors.As(err, &e) && (e.Code == parley.CodeNoQuorum || e.Code == parley.CodeOverloaded):
		return e
	case err != nil && !errors.Is(err, context.DeadlineExceeded):
		return parley.Errorf(parley.CodeNoQuorum, "no answer within the deadline; last: %v", err)
	case c.link != nil:
		return parley.Errorf(parley.CodeNoQuorum, "no answer from %s (%s) within the deadline", c.link.node, c.link.addr)
	}
	return parley.Errorf(parley.CodeNoQuorum, "no server answered within the deadline")
}

// current returns the connection, nil if there is none.
func (c *Client) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// await returns the connection as soon as there is one.
func (c *Client) await(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, linked := c.link, c.linked
		c.mu.Unlock()
		select {
		case <-c.closing:
			return nil, closedError(false)
		default:
		}
		if l != nil {
			return l, nil
		}
		select {
		case <-linked:
		case <-c.closing:
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			return nil, c.gaveUp(ctx, nil)
		}
	}
}
