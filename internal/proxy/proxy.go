// Package proxy forwards TCP connections, and treats them as bad networks do:
// delay, connections that break in the midst of a frame or whose other end is gone
// without a word, requests that arrive and whose answers do not.
package proxy

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Fault is how connections are treated. The zero Fault is a good network.
type Fault struct {
	// Delay is by how much bytes arrive later, in each direction.
	Delay time.Duration
	// HoldRequests and HoldAnswers: what clients, or the server, send is not
	// forwarded, and after a while not taken in either.
	HoldRequests, HoldAnswers bool
	// Refuse: new connections are reset at once.
	Refuse bool
}

// Proxy forwards the connections of one port to one server. It has a goroutine that
// accepts, and two for each direction of a connection; Close waits for all. What a
// receiver does not take is held here, 2 MiB of a direction at most, and then not
// taken from the sender either.
type Proxy struct {
	ln     net.Listener
	target func(context.Context) (net.Conn, error)
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	fault   Fault
	changed chan struct{} // closed when something about a fault changes
	conns   map[*conn]bool
}

// New listens on a free port of 127.0.0.1 for what goes to target (host:port).
func New(target string) (*Proxy, error) {
	return NewFunc(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", target)
	})
}

// NewFunc is New for a server that is reached in another way. The connections must be
// *net.TCPConn.
func NewFunc(target func(context.Context) (net.Conn, error)) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{ln: ln, target: target, changed: make(chan struct{}), conns: make(map[*conn]bool)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where clients find the proxy.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Set makes connections be treated in a way from now on, those that there are too.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
	p.wake()
}

// wake has everybody look again. mu is held.
func (p *Proxy) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Reset breaks all connections at once. What is under way is lost, in both
// directions. It returns how many there were.
func (p *Proxy) Reset() int {
	conns := p.all()
	for _, c := range conns {
		c.reset()
	}
	return len(conns)
}

// Tear breaks each connection as soon as something is to be forwarded, of which only
// a part arrives. It returns how many connections that will concern.
func (p *Proxy) Tear() int {
	conns := p.all()
	for _, c := range conns {
		c.torn.Store(true)
	}
	return len(conns)
}

// Stall makes the connections that there are half-open for the rest of their lives:
// nothing is forwarded any more of what clients send, of what the server sends, or of
// both, as if the other end had gone without a word. It returns how many there are.
func (p *Proxy) Stall(requests, answers bool) int {
	conns := p.all()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		c.stalled[0], c.stalled[1] = c.stalled[0] || requests, c.stalled[1] || answers
	}
	p.wake()
	return len(conns)
}

func (p *Proxy) all() (conns []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		conns = append(conns, c)
	}
	return conns
}

// Close ends the proxy and all its connections.
func (p *Proxy) Close() {
	p.cancel()
	p.ln.Close()
	p.Reset()
	p.wg.Wait()
}

// now is how connections are treated.
func (p *Proxy) now() Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

func (p *Proxy) accept() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors, perhaps
			continue
		}
		p.wg.Go(func() { p.serve(in.(*net.TCPConn)) })
	}
}

// serve forwards one connection to its end.
func (p *Proxy) serve(in *net.TCPConn) {
	c := &conn{p: p, in: in}
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	defer c.reset()
	if p.now().Refuse {
		return
	}
	out, err := p.target(c.ctx)
	if err != nil {
		return
	}
	c.out = out.(*net.TCPConn)
	p.mu.Lock()
	p.conns[c] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}()
	stop := context.AfterFunc(c.ctx, c.close) // wakes those who read or write
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { c.forward(c.out, c.in, false) })
	wg.Go(func() { c.forward(c.in, c.out, true) })
	wg.Wait()
}

// conn is one connection with its two ends.
type conn struct {
	p       *Proxy
	in, out *net.TCPConn
	ctx     context.Context // ends with the connection
	cancel  context.CancelFunc
	torn    atomic.Bool
	stalled [2]bool // requests, answers; guarded by Proxy.mu
}

// held reports whether nothing is forwarded in a direction, until changed is closed.
func (c *conn) held(answers bool) (held bool, changed <-chan struct{}) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if answers {
		return c.p.fault.HoldAnswers || c.stalled[1], c.p.changed
	}
	return c.p.fault.HoldRequests || c.stalled[0], c.p.changed
}

// reset breaks the connection at both ends.
func (c *conn) reset() {
	c.cancel()
	c.close()
}

func (c *conn) close() {
	for _, end := range []*net.TCPConn{c.in, c.out} {
		if end != nil {
			_ = end.SetLinger(0) // a reset, and not an orderly end
			_ = end.Close()
		}
	}
}

// chunk is what was read at once, and when it is due at the other end.
type chunk struct {
	bytes []byte
	end   bool // nothing follows, in good order
	due   time.Time
}

// forward brings what arrives at src to dst, until that is over. An orderly end is
// forwarded like everything else.
func (c *conn) forward(dst, src *net.TCPConn, answers bool) {
	chunks := make(chan chunk, 64)
	c.p.wg.Go(func() {
		defer close(chunks)
		for c.goOn(answers) {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			select {
			case chunks <- chunk{buf[:n], err == io.EOF, time.Now().Add(c.p.now().Delay)}:
			case <-c.ctx.Done():
				return
			}
			if err != nil {
				if err != io.EOF {
					c.reset()
				}
				return
			}
		}
	})
	for k := range chunks {
		t := time.NewTimer(time.Until(k.due))
		select {
		case <-t.C:
		case <-c.ctx.Done():
			t.Stop()
			return
		}
		if !c.goOn(answers) {
			return
		}
		if len(k.bytes) > 0 && c.torn.Load() {
			_, _ = dst.Write(k.bytes[:rand.IntN(len(k.bytes))])
			c.reset()
			return
		}
		if _, err := dst.Write(k.bytes); err != nil {
			c.reset()
			return
		}
		if k.end {
			_ = dst.CloseWrite()
		}
	}
}

// goOn waits while nothing is to be forwarded in a direction, and reports whether the
// connection still lives.
func (c *conn) goOn(answers bool) bool {
	for {
		held, changed := c.held(answers)
		if !held {
			return c.ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return false
		}
	}
}
