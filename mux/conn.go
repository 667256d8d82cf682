package mux

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// ConnConfig configures the client's end.
type ConnConfig struct {
	// MaxFrame is the most bytes in a frame behind its length, as the server's
	// welcome said; default 128 KiB.
	MaxFrame int
	// PingEvery is the time between two pings; default 30 s. It must be well below
	// the server's idle time-out.
	PingEvery time.Duration
	// IdleTimeout: a server that says nothing for so long, not even a pong, is
	// given up; default 90 s.
	IdleTimeout time.Duration
	// WriteTimeout: a server that takes nothing for so long is given up; default 10 s.
	WriteTimeout time.Duration
	// MaxBuffered is the most bytes that wait to be written; beyond it Do, Get,
	// Call and Watch are refused with CodeOverloaded; default 4 MiB.
	MaxBuffered int
	// OnRedirect is told when the server says that another node leads. It is
	// called by the reading goroutine and must not block. nil: ignored.
	OnRedirect func(node, addr string)
}

func (c *ConnConfig) setDefaults() {
	orDefault(&c.MaxFrame, wire.DefaultMaxFrame)
	orDefault(&c.PingEvery, 30*time.Second)
	orDefault(&c.IdleTimeout, 90*time.Second)
	orDefault(&c.WriteTimeout, 10*time.Second)
	orDefault(&c.MaxBuffered, 4<<20)
}

// Conn is the client's end of a framed connection. It is safe for concurrent use.
//
// It owns a goroutine that reads and makes all callbacks but those that happen
// within the call itself, and, while there is something to write, one that does.
// Both end when the connection does; Close waits for them. No lock is held during
// a callback.
//
// A slow server makes calls fail with CodeOverloaded; a slow consumer of a watch
// makes the server pause that watch.
type Conn struct {
	cfg  ConnConfig
	nc   net.Conn
	in   *wire.FrameReader
	done chan struct{}

	out outbox

	hurried atomic.Bool // the read deadline is that of Hurry

	// Guarded by out.mu.
	lastID  uint64
	pending map[uint64]pending
	watches map[uint64]*subscription
	refuse  error // nothing more is sent; nil while all is well
	parting error // what the server said before it closes
	closed  bool  // by Close
	err     error // why the connection ended; its first reason
	ping    *time.Timer
}

// pending is what waits for an answer: one of the two is set.
type pending struct {
	result func(parley.Result, error)
	reply  func([]byte, error)
}

func (p pending) fail(err error) {
	if p.reply != nil {
		p.reply(nil, err)
		return
	}
	p.result(parley.Result{}, err)
}

var errClosed = errors.New("connection closed")

// NewConn takes over a connection on which a hello has been accepted. br is the
// reader over nc that was used so far. Close must be called at the end.
func NewConn(nc net.Conn, br wire.Buffer, cfg ConnConfig) *Conn {
	cfg.setDefaults()
	c := &Conn{
		cfg: cfg, nc: nc, in: wire.NewFrameReader(br, cfg.MaxFrame),
		done:    make(chan struct{}),
		pending: make(map[uint64]pending),
		watches: make(map[uint64]*subscription),
	}
	c.out.init(nc, cfg.WriteTimeout, nil)
	c.out.mu.Lock()
	c.ping = time.AfterFunc(cfg.PingEvery, c.sendPing)
	c.out.mu.Unlock()
	go c.run()
	return c
}

// Do sends a command and returns at once. Commands given by one goroutine one
// after the other arrive in that order. done is called once and must not block:
// by the reading goroutine when the answer comes or the connection is lost
// (CodeInterrupted), or before Do returns when nothing was sent
// (CodeOverloaded, CodeShuttingDown, CodeBadRequest).
func (c *Conn) Do(r parley.Request, done func(parley.Result, error)) {
	c.out.mu.Lock()
	err := c.open()
	if err == nil {
		start := len(c.out.buf)
		c.lastID++
		c.out.buf, err = wire.AppendDo(c.out.tail(), c.lastID, &r)
		if err = c.posted(start, err); err == nil {
			c.pending[c.lastID] = pending{result: done}
		}
	}
	c.out.mu.Unlock()
	if err != nil {
		done(parley.Result{}, err)
	}
}

// Get asks a query and waits for the answer or the end of ctx.
func (c *Conn) Get(ctx context.Context, q parley.Query) (parley.Result, error) {
	return c.ask(ctx, &wire.Frame{Kind: wire.KindGet, Query: q})
}

// ask sends a frame that is answered by a result, and waits for it or the end of ctx.
func (c *Conn) ask(ctx context.Context, f *wire.Frame) (parley.Result, error) {
	type outcome struct {
		result parley.Result
		err    error
	}
	ch := make(chan outcome, 1)
	id, err := c.request(f, pending{
		result: func(r parley.Result, err error) { ch <- outcome{r, err} },
	})
	if err != nil {
		return parley.Result{}, err
	}
	select {
	case o := <-ch:
		return o.result, o.err
	case <-ctx.Done():
		c.forget(id)
		return parley.Result{}, context.Cause(ctx)
	}
}

// Call makes a call between members and waits for the reply or the end of ctx.
func (c *Conn) Call(ctx context.Context, method string, body []byte) ([]byte, error) {
	type outcome struct {
		body []byte
		err  error
	}
	ch := make(chan outcome, 1)
	id, err := c.request(&wire.Frame{Kind: wire.KindCall, Method: method, Body: body}, pending{
		reply: func(body []byte, err error) { ch <- outcome{body, err} },
	})
	if err != nil {
		return nil, err
	}
	select {
	case o := <-ch:
		return o.body, o.err
	case <-ctx.Done():
		c.forget(id)
		return nil, context.Cause(ctx)
	}
}

// Done is closed when the connection has ended and all callbacks have been made.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended; nil before Done and after Close.
func (c *Conn) Err() error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.closed {
		return nil
	}
	return c.err
}

// Close ends the connection and waits for its goroutines. What still waits for
// an answer fails with CodeInterrupted. Close must not be called from a
// callback; [Conn.Abort] may.
func (c *Conn) Close() error {
	c.out.mu.Lock()
	c.closed = c.closed || c.err == nil
	c.out.mu.Unlock()
	c.Abort(errClosed)
	<-c.done
	return nil
}

// Abort ends the connection with the given reason without waiting for it.
func (c *Conn) Abort(err error) {
	c.out.mu.Lock()
	c.abort(err)
	c.out.mu.Unlock()
	c.nc.Close() //nolint:errcheck // nothing to be done about it
}

// abort notes why the connection ends. out.mu is held.
func (c *Conn) abort(err error) {
	if c.err == nil {
		c.err = err
	}
	if c.refuse == nil {
		c.refuse = parley.Errorf(parley.CodeShuttingDown, "not sent: %v", c.err)
	}
	c.out.stop(c.err)
	c.ping.Stop()
}

// open says why nothing may be sent, if so. out.mu is held.
func (c *Conn) open() error {
	if c.refuse != nil {
		return c.refuse
	}
	if n := c.out.size(); n >= c.cfg.MaxBuffered {
		return parley.Errorf(parley.CodeOverloaded, "%d bytes wait for the server, limit %d", n, c.cfg.MaxBuffered)
	}
	return nil
}

// posted completes the appending of the frame at start: it is sent if it could
// be encoded and is not too large, else removed. out.mu is held.
func (c *Conn) posted(start int, err error) error {
	const prefix = 4
	if size := len(c.out.buf) - start - prefix; err == nil && size > c.cfg.MaxFrame {
		c.out.buf = c.out.buf[:start]
		return parley.Errorf(parley.CodeBadRequest, "frame of %d bytes, the connection's limit is %d", size, c.cfg.MaxFrame)
	}
	if err != nil {
		return parley.Errorf(parley.CodeUnsupported, "%v", err)
	}
	c.out.wake()
	return nil
}

// request sends a frame that p waits for, under a new id.
func (c *Conn) request(f *wire.Frame, p pending) (uint64, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	err := c.open()
	if err == nil {
		c.lastID++
		f.ID = c.lastID
		err = c.post(f)
	}
	if err != nil {
		return 0, err
	}
	c.pending[f.ID] = p
	return f.ID, nil
}

// post sends a frame. out.mu is held.
func (c *Conn) post(f *wire.Frame) error {
	var err error
	start := len(c.out.buf)
	c.out.buf, err = wire.AppendFrame(c.out.tail(), f)
	return c.posted(start, err)
}

// forget makes the answer to id go nowhere.
func (c *Conn) forget(id uint64) {
	c.out.mu.Lock()
	delete(c.pending, id)
	c.out.mu.Unlock()
}

func (c *Conn) sendPing() {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.err != nil {
		return
	}
	c.lastID++
	_ = c.post(&wire.Frame{Kind: wire.KindPing, ID: c.lastID}) // a ping can be encoded
	c.ping.Reset(c.cfg.PingEvery)
}

// Hurry gives the server a shorter time than IdleTimeout to say anything, this once:
// it is sent a ping, which it answers even if it cannot answer anything else. When it
// says nothing, the connection is lost. Until it has said something, further calls do
// nothing. They must not be concurrent.
func (c *Conn) Hurry(within time.Duration) {
	if c.hurried.Load() {
		return
	}
	if c.nc.SetReadDeadline(time.Now().Add(within)) == nil {
		c.hurried.Store(true) // after the deadline: whoever sees it sets another one
		c.sendPing()
	}
}

// run reads until the connection ends, and cleans up.
func (c *Conn) run() {
	defer close(c.done)
	err := c.read()
	c.out.mu.Lock()
	if c.out.err != nil {
		err = c.out.err // the writer was first, and reading failed because of it
	}
	c.abort(err)
	c.out.mu.Unlock()
	c.nc.Close() //nolint:errcheck // nothing to be done about it
	c.out.mu.Lock()
	c.out.finished()
	c.out.mu.Unlock()
	c.settle()
}

// settle tells everybody who still waits that the connection is lost.
func (c *Conn) settle() {
	c.out.mu.Lock()
	lost := parley.Errorf(parley.CodeInterrupted, "connection lost: %v", c.err)
	waiting := c.pending
	c.pending = nil
	for _, w := range c.watches {
		w.end(lost)
	}
	c.out.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(waiting)) {
		waiting[id].fail(lost)
	}
}

// read handles frames until reading fails.
func (c *Conn) read() error {
	var f wire.Frame
	var armed time.Time
	for {
		if !c.in.Ready() {
			if now := time.Now(); c.hurried.Swap(false) || now.Sub(armed) >= min(armEvery, c.cfg.IdleTimeout/4) {
				armed = now
				if err := c.nc.SetReadDeadline(now.Add(c.cfg.IdleTimeout)); err != nil {
					return err
				}
			}
		}
		err := c.in.Read(&f)
		switch {
		case errors.Is(err, wire.ErrUnsupported): // from a newer server; it can be done without
			continue
		case err == io.EOF:
			return c.endedByServer()
		case err != nil:
			return err
		}
		if err := c.handle(&f); err != nil {
			return err
		}
	}
}

// endedByServer is why the server closed the connection.
func (c *Conn) endedByServer() error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.parting != nil {
		return c.parting
	}
	return errors.New("closed by the server")
}
