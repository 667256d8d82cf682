package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/parley-chat/parley/certs"
	"github.com/parley-chat/parley/mux"

	"github.com/parley-chat/parley/internal/pause"
)

// accept takes connections until the listener is closed.
func (n *Network) accept() {
	for {
		raw, err := n.ln.Accept()
		switch {
		case err == nil:
			n.admit(raw)
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of files, most likely: it may pass
			n.log.Error("peer port cannot accept", "err", err)
			pause.For(n.life, 100*time.Millisecond)
		}
	}
}

// admit starts the greeting of a connection if the limits allow.
func (n *Network) admit(raw net.Conn) {
	n.mu.Lock()
	full := len(n.greeting) >= n.cfg.MaxHandshakes || len(n.greeting)+len(n.conns) >= n.cfg.MaxConns
	if !full && n.spawnLocked(func() { n.welcome(raw) }) {
		n.greeting[raw] = struct{}{}
		n.mu.Unlock()
		return
	}
	n.mu.Unlock()
	raw.Close()
	if full {
		n.refusal(raw.RemoteAddr(), errors.New("too many connections"))
	}
}

// welcome greets a connection and serves it.
func (n *Network) welcome(raw net.Conn) {
	c, err := n.greet(raw)
	n.mu.Lock()
	delete(n.greeting, raw)
	n.mu.Unlock()
	if err == nil && !n.track(c) {
		err = net.ErrClosed
	}
	if err != nil {
		raw.Close()
		n.refusal(raw.RemoteAddr(), err)
		return
	}
	n.log.Debug("member connected", "member", c.member, "kind", c.kind, "from", raw.RemoteAddr())
	if p := n.known(c.member); p != nil {
		p.kick() // it is alive: no reason to wait with dialling it
	}
	if c.kind == kindRaft {
		n.stream.hand(c)
		return
	}
	n.forward(c)
}

// greet finds out who is there and what for. Nothing of Raft and no frame is
// read before the certificate and the preface have been judged.
func (n *Network) greet(raw net.Conn) (*conn, error) {
	if err := raw.SetDeadline(time.Now().Add(n.cfg.HandshakeTimeout)); err != nil {
		return nil, err
	}
	if err := failFast(raw); err != nil {
		return nil, err
	}
	t := tls.Server(raw, n.source.Accept())
	if err := t.HandshakeContext(n.life); err != nil {
		return nil, err
	}
	name, err := certs.PeerName(t.ConnectionState())
	if err != nil {
		return nil, err
	}
	p, err := readPreface(t)
	if err == nil {
		err = n.judge(p, name)
	}
	if err == nil && p.kind == kindForward {
		err = n.awaitServe()
	}
	if err := errors.Join(err, writeVerdict(t, err)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return &conn{Conn: t, raw: raw, n: n, member: name, kind: p.kind}, nil
}

// judge says whether a connection that claims p may come in; name is what its
// certificate says.
func (n *Network) judge(p preface, name string) error {
	switch {
	case p.from != name:
		return fmt.Errorf("it calls itself %q, its certificate is that of %s", p.from, name)
	case name == n.cfg.Name:
		return fmt.Errorf("it has the name of this node, %s", name)
	case p.group != n.cfg.Group:
		return fmt.Errorf("it is for group %d, this is group %d", p.group, n.cfg.Group)
	case p.kind != kindRaft && p.kind != kindForward:
		return fmt.Errorf("it is for an unknown purpose (%v)", p.kind)
	}
	return nil
}

// errStarting refuses forwarding connections of members that were here first.
var errStarting = errors.New("the node is still starting")

// awaitServe waits until forwarded commands can be served.
func (n *Network) awaitServe() error {
	t := time.NewTimer(n.cfg.HandshakeTimeout / 2) // leaves time to say why not
	defer t.Stop()
	select {
	case <-n.serving:
		return nil
	case <-t.C:
		return errStarting
	case <-n.life.Done():
		return errors.New("the node is shutting down")
	}
}

// forward serves a member's forwarding connection.
func (n *Network) forward(c *conn) {
	defer c.Close()
	var call func(ctx context.Context, method string, body []byte) ([]byte, error)
	if n.handler.Call != nil {
		call = func(ctx context.Context, method string, body []byte) ([]byte, error) {
			return n.handler.Call(ctx, c.member, method, body)
		}
	}
	err := mux.Serve(n.life, c, bufio.NewReaderSize(c, 64<<10), mux.ServerConfig{
		Service:          n.handler.Service,
		Call:             call,
		MaxFrame:         n.cfg.MaxFrame,
		IdleTimeout:      n.cfg.IdleTimeout,
		WriteTimeout:     n.cfg.WriteTimeout,
		MaxBuffered:      n.cfg.MaxBuffered,
		MaxInFlight:      n.cfg.MaxInFlight,
		MaxInFlightBytes: n.cfg.MaxBuffered,
		Logger:           n.log,
	})
	if err != nil {
		n.log.Debug("forwarding connection ended", "from", c.member, "err", err)
	}
}

// known returns the member if it has been asked for before, else nil.
func (n *Network) known(name string) *Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[name]
}

// refusal logs why a connection was not let in.
func (n *Network) refusal(from net.Addr, err error) {
	switch {
	case n.life.Err() != nil:
		return
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		// Somebody looked whether the port is open (a member's probe, a health check)
		// or lost patience.
		n.log.Debug("connection to the peer port ended before it was let in", "from", from, "err", err)
		return
	case errors.Is(err, errStarting):
		n.log.Debug("connection to the peer port refused", "from", from, "err", err)
		return
	}
	if ok, dropped := n.quiet.allow(time.Now()); ok {
		n.log.Warn("connection to the peer port refused", "from", from, "err", err, "unlogged_before", dropped)
	}
}

// quiet keeps strangers from filling the disk with log lines: 60 a minute pass,
// the rest is counted.
type quiet struct {
	mu      sync.Mutex
	since   time.Time
	lines   int
	dropped int
}

// allow reports whether a line may be written, and how many were dropped since
// the last one.
func (q *quiet) allow(now time.Time) (ok bool, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Sub(q.since) > time.Minute {
		q.since, q.lines = now, 0
	}
	if q.lines >= 60 {
		q.dropped++
		return false, 0
	}
	q.lines++
	dropped, q.dropped = q.dropped, 0
	return true, dropped
}
