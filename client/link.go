package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/mux"
	"github.com/parley-chat/parley/wire"
)

// link is a connection on which a server has accepted the hello. The fields
// from since on are guarded by Client.mu.
type link struct {
	node string // id of the server
	addr string // where it was dialled
	conn *mux.Conn
	// helper: a follower that forwards for us because the leader, known to the
	// cluster, could not be reached.
	helper bool
	// denied: the server has refused the login, which is the answer to everything.
	denied parley.Result

	patience time.Duration // how long it may leave everything unanswered

	since   time.Time // when it was adopted
	pending int       // commands and queries under way
	bytes   int       // size of the commands among them
	heard   time.Time // when the last outcome came, or pending was 0
	fine    time.Time // when the last answer came; at first as since

	refused bool      // it cannot reach a majority or does not lead, by its own word
	told    int       // it says that another node leads: how often that is still worth a search
	doubts  int       // how often others were asked since the last answer
	doubtAt time.Time // not asked again before
}

// room reports whether another command may be sent after n of the same batch.
func (l *link) room(n int) bool { return n < batchCalls && (l.bytes == 0 || l.bytes < linkBytes) }

// ended reports whether the connection is over.
func (l *link) ended() bool {
	select {
	case <-l.conn.Done():
		return true
	default:
		return false
	}
}

// silent reports whether it has left everything unanswered for too long.
func (l *link) silent(now time.Time) bool {
	return l.pending > 0 && now.Sub(l.heard) >= l.patience
}

// began notes a query under way.
func (l *link) began(now time.Time) {
	if l.pending == 0 {
		l.heard = now
	}
	l.pending++
}

// judge notes what the outcome of a command or query says about the server.
func (l *link) judge(now time.Time, err error) {
	switch parley.CodeOf(err) {
	case parley.CodeNotLeader, parley.CodeNoQuorum, parley.CodeShuttingDown, parley.CodeInterrupted:
		l.refused = true
	case parley.CodeOK:
		l.refused, l.doubts, l.fine = false, 0, now
	}
}

// errSlow: the server has accepted the connection, and then said nothing in time.
var errSlow = errors.New("no answer to hello in time")

// connect dials a server and says hello, which it has to answer within limit. A
// *wire.Redirect among the errors tells who leads. accepted, if not nil, is called
// in between.
func (c *Client) connect(ctx context.Context, t target, mode wire.Mode, limit time.Duration, accepted func()) (*link, error) {
	nc, err := c.dial(ctx, t.addr)
	if err != nil {
		return nil, err
	}
	if accepted != nil {
		accepted()
	}
	all := ctx
	ctx, cancel := context.WithTimeout(ctx, upTo(limit))
	defer cancel()
	raw := nc
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) }) // interrupts reads and writes
	if c.cfg.TLS != nil {
		nc = tls.Client(nc, c.tlsFor(t.addr))
	}
	br := bufio.NewReaderSize(nc, 16<<10)
	welcome, err := hello(nc, br, mode)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil && t.node != "" && welcome.Node != t.node {
		err = fmt.Errorf("expected node %s, found %s", t.node, welcome.Node)
	}
	if err != nil {
		nc.Close()
		return nil, explain(ctx, t.addr, err)
	}
	l := &link{node: welcome.Node, addr: t.addr, patience: upTo(c.cfg.Patience)}
	ping := c.cfg.PingEvery
	if welcome.Idle > 0 {
		ping = min(ping, welcome.Idle/3)
	}
	l.conn = mux.NewConn(nc, br, mux.ConnConfig{
		MaxFrame:    welcome.MaxFrame,
		PingEvery:   ping,
		IdleTimeout: 3 * ping,
		OnRedirect:  func(node, addr string) { c.redirected(l, node, addr) },
	})
	if err := c.login(all, l); err != nil {
		l.conn.Close()
		return nil, explain(all, t.addr, err)
	}
	return l, nil
}

func (c *Client) dial(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, upTo(c.cfg.DialTimeout))
	defer cancel()
	return c.cfg.Dial(ctx, "tcp", addr)
}

// explain names the server in an error, and a time-out by its name.
func explain(ctx context.Context, addr string, err error) error {
	var redirect *wire.Redirect
	switch {
	case errors.As(err, &redirect):
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", addr, errSlow)
	}
	return fmt.Errorf("%s: %w", addr, err)
}

func hello(nc net.Conn, br *bufio.Reader, mode wire.Mode) (wire.Welcome, error) {
	if _, err := nc.Write(wire.AppendHello(nil, wire.Hello{Mode: mode})); err != nil {
		return wire.Welcome{}, err
	}
	return wire.ReadWelcome(br)
}

// tlsFor returns the TLS configuration for a connection to addr.
func (c *Client) tlsFor(addr string) *tls.Config {
	if c.cfg.TLS.ServerName != "" {
		return c.cfg.TLS
	}
	cfg := c.cfg.TLS.Clone()
	cfg.ServerName, _, _ = net.SplitHostPort(addr)
	return cfg
}
