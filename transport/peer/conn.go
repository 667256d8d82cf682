package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// conn is an authenticated connection with a member. It notices its end: the
// first failure to read or write, other than a time-out, that this side did not
// bring about, makes the network look after the member.
type conn struct {
	*tls.Conn
	raw    net.Conn // beneath TLS
	n      *Network
	member string
	kind   kind
	addr   string // outbound: under which address it was reached; inbound: ""

	ours    atomic.Bool // this side closed it, or its loss has been told
	once    sync.Once
	onClose func() // called by the first Close, nil for none
}

func (c *conn) Read(b []byte) (int, error) {
	k, err := c.Conn.Read(b)
	if err != nil {
		c.failed(err)
	}
	return k, err
}

func (c *conn) Write(b []byte) (int, error) {
	k, err := c.Conn.Write(b)
	if err != nil {
		c.failed(err)
	}
	return k, err
}

func (c *conn) failed(err error) {
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return
	}
	if !c.ours.Swap(true) {
		c.n.watch.lost(c.member, closedByPeer(err))
	}
}

// closedByPeer reports whether an error says that the other end has closed the
// connection, or its kernel has for it.
func closedByPeer(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Close is for the connection's user, who is done with it. It does not say
// goodbye in TLS, which could block: all that is spoken here delimits itself.
func (c *conn) Close() error {
	err := c.cut()
	c.once.Do(func() {
		c.n.mu.Lock()
		delete(c.n.conns, c)
		c.n.mu.Unlock()
		if c.onClose != nil {
			c.onClose()
		}
	})
	return err
}

// cut makes the connection's user see its end.
func (c *conn) cut() error {
	c.ours.Store(true)
	return c.raw.Close()
}

// dial connects to a member, at whichever of its addresses answers for it.
func (n *Network) dial(ctx context.Context, name string, k kind) (*conn, error) {
	addrs := n.book.addrs(name)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("no address known for %s", name)
	}
	var errs []error
	for i, addr := range addrs {
		c, err := n.dialAddr(ctx, name, addr, k, len(addrs)-i)
		if err == nil {
			n.book.worked(name, addr)
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dialAddr tries one address, for its share of the time that ctx leaves.
func (n *Network) dialAddr(ctx context.Context, name, addr string, k kind, shares int) (*conn, error) {
	limit := n.cfg.HandshakeTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/time.Duration(shares))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d := net.Dialer{KeepAliveConfig: keepAlive()}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	t := tls.Client(raw, n.source.Dial(name))
	err = n.introduce(ctx, t, k)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("%s at %s: %w", name, addr, err)
	}
	c := &conn{Conn: t, raw: raw, n: n, member: name, kind: k, addr: addr}
	if !n.track(c) {
		raw.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// introduce makes the other end know and accept us.
func (n *Network) introduce(ctx context.Context, t *tls.Conn, k kind) error {
	if err := failFast(t.NetConn()); err != nil {
		return err
	}
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	werr := preface{group: n.cfg.Group, kind: k, from: n.cfg.Name}.write(t)
	if err := readVerdict(t); err != nil {
		return err // says more than werr: in TLS 1.3 this is how a certificate is rejected
	}
	return werr
}

// track takes a connection into the network's care, unless that is closing.
func (n *Network) track(c *conn) bool {
	n.mu.Lock()
	open := !n.closed
	if open {
		n.conns[c] = struct{}{}
	}
	n.mu.Unlock()
	if open {
		n.watch.alive(c.member)
	}
	return open
}
