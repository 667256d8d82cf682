package peer

import (
	"bufio"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
	"github.com/parley-chat/parley/mux"
)

const (
	// minRedial is the least time between two attempts to connect to a member,
	// however urgently it is wanted; maxRedial the most, unless it is.
	minRedial = 25 * time.Millisecond
	maxRedial = time.Second
)

// Peer is another member, as a place to forward commands and calls to. Its one
// connection is kept open by a goroutine of the Network. Safe for concurrent use.
type Peer struct {
	n    *Network
	name string
	wake chan struct{} // asks for an attempt to connect now

	mu   sync.Mutex
	conn *mux.Conn     // nil while there is no connection
	err  error         // why not
	turn chan struct{} // closed when the next attempt has ended
}

func newPeer(n *Network, name string) *Peer {
	return &Peer{
		n: n, name: name,
		wake: make(chan struct{}, 1),
		turn: make(chan struct{}),
		err:  errors.New("not connected yet"),
	}
}

// Start forwards a command. It never waits for a connection: while there is
// none, done is called at once with CodeNotLeader, and nothing was sent. When
// the connection is lost, done is called with CodeInterrupted: the member may
// have read the command and may carry it out.
//
// Commands that are started one after the other are started in that order over
// there. Over a loss of the connection this holds for commands of a session
// only, by their numbers: what was sent over the old connection may be read after
// what was sent over the new one.
//
// ctx is not looked at once the command has been handed over: the answer comes,
// or the connection ends, at the latest when the member has been silent for
// Config.IdleTimeout.
func (p *Peer) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	if err := ctx.Err(); err != nil {
		done(parley.Result{}, err)
		return
	}
	conn, err := p.current()
	if err != nil {
		p.kick()
		done(parley.Result{}, err)
		return
	}
	conn.Do(r, done)
}

// Call calls a method of the member and waits for its reply. While there is no
// connection it waits for one attempt to make one.
func (p *Peer) Call(ctx context.Context, method string, body []byte) ([]byte, error) {
	p.mu.Lock()
	conn, turn := p.conn, p.turn
	p.mu.Unlock()
	if conn == nil {
		p.kick()
		select {
		case <-turn:
		case <-p.n.life.Done():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	conn, err := p.current()
	if err != nil {
		return nil, err
	}
	return conn.Call(ctx, method, body)
}

// current returns the connection, or why there is none.
func (p *Peer) current() (*mux.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		return nil, parley.Errorf(parley.CodeNotLeader, "no connection to %s: %v", p.name, p.err)
	}
	return p.conn, nil
}

// kick asks for a connection now rather than after the back-off.
func (p *Peer) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run keeps a connection until the network closes. It logs when the connection
// is lost and when it is back, but no more than that in a minute.
func (p *Peer) run() {
	ctx := p.n.life
	up := false          // as far as was logged
	var warned time.Time // when it was last logged that there is no connection
	for fails := 0; ctx.Err() == nil; fails++ {
		conn, err := p.connect(ctx)
		p.set(conn, err)
		if err == nil {
			if !up {
				up = true
				p.n.log.Info("connected to member", "member", p.name)
			}
			began := time.Now()
			err = p.hold(ctx, conn)
			if time.Since(began) > maxRedial {
				fails = 0
			}
		}
		if ctx.Err() != nil {
			break
		}
		if fails == 0 || time.Since(warned) > time.Minute {
			up, warned = false, time.Now()
			p.n.log.Warn("no connection to member", "member", p.name, "err", err)
		}
		p.wait(ctx, fails)
	}
	p.set(nil, errors.New("this node is shutting down"))
}

// connect makes the connection, within Config.DialTimeout.
func (p *Peer) connect(ctx context.Context) (*mux.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.n.cfg.DialTimeout)
	defer cancel()
	c, err := p.n.dial(ctx, p.name, kindForward)
	if err != nil {
		return nil, err
	}
	return mux.NewConn(c, bufio.NewReaderSize(c, 64<<10), mux.ConnConfig{
		MaxFrame:     p.n.cfg.MaxFrame,
		PingEvery:    p.n.cfg.PingEvery,
		IdleTimeout:  p.n.cfg.IdleTimeout,
		WriteTimeout: p.n.cfg.WriteTimeout,
		MaxBuffered:  p.n.cfg.MaxBuffered,
	}), nil
}

// hold waits for the end of the connection and says why it came.
func (p *Peer) hold(ctx context.Context, conn *mux.Conn) error {
	select {
	case <-conn.Done():
	case <-ctx.Done():
	}
	err := conn.Err()
	if err == nil {
		err = errors.New("connection closed")
	}
	p.set(nil, err)
	conn.Close()
	return err
}

// set publishes the outcome of an attempt, or the loss of the connection.
func (p *Peer) set(conn *mux.Conn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn, p.err = conn, err
	close(p.turn)
	p.turn = make(chan struct{})
}

// wait waits before the next attempt: longer each time, and shorter when the
// member is wanted or has been heard of.
func (p *Peer) wait(ctx context.Context, fails int) {
	if !pause.For(ctx, minRedial) || len(p.n.book.addrs(p.name)) > 0 && fails == 0 {
		return
	}
	var after <-chan time.Time
	if len(p.n.book.addrs(p.name)) > 0 { // else only a new address helps
		t := time.NewTimer(pause.Backoff(fails, minRedial, maxRedial))
		defer t.Stop()
		after = t.C
	}
	select {
	case <-after:
	case <-p.wake:
	case <-ctx.Done():
	}
}
