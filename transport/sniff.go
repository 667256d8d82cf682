package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"
)

// preface is what a client of HTTP/2 sends first, as far as it takes to tell it
// from everybody else: no command of the wire protocols begins like it.
const preface = "PRI * HTTP/2.0"

// Sniff tells clients of HTTP/2 from others by the first bytes that they send, so
// that both find their protocol on one port. [Sniff.Handle] is a [Handler].
//
// What it looks at is still there to be read by the handler: on a TCP connection
// it only peeks, and hands on the connection as it is.
type Sniff struct {
	// HTTP2 serves connections that begin with the preface of HTTP/2, and those on
	// which TLS has agreed upon "h2". Required.
	HTTP2 Handler
	// Others serves all others. Required.
	Others Handler
	// Timeout is how long the TLS handshake may wait for its turn, how long it may
	// take then, and the rest of a preface that has begun. A client may be silent before its first byte for as long as it
	// likes. Required.
	Timeout time.Duration
	// Handshakes bounds the TLS handshakes; nil: nothing does.
	Handshakes *Handshakes
	// Logger is told of connections that end undecided, at debug level; nil: nobody is.
	Logger *slog.Logger
}

// Handle hands nc to the handler of what is spoken on it. A connection that ends,
// or on which ctx ends, before that is known is closed.
func (s *Sniff) Handle(ctx context.Context, nc net.Conn) {
	if handle, conn := s.tell(ctx, nc); handle != nil {
		handle(ctx, conn)
	}
}

// tell finds out what is spoken. It returns the handler, nil if the connection is
// at its end, and the connection to be given to it. It is a function of its own
// so that nothing of it stays on the stack of an idle connection.
func (s *Sniff) tell(ctx context.Context, nc net.Conn) (Handler, net.Conn) {
	if secure, ok := nc.(*tls.Conn); ok {
		proto, err := s.handshake(ctx, secure)
		switch {
		case err != nil:
			s.debug(nc, "TLS handshake failed", err)
			return nil, nil
		case proto == "h2":
			return s.HTTP2, nc
		}
	}
	stop := context.AfterFunc(ctx, func() { nc.SetReadDeadline(time.Unix(1, 0)) })
	http2, conn, err := s.look(ctx, nc)
	if stop() { // otherwise ctx has ended, and the handler is told the same way
		nc.SetReadDeadline(time.Time{})
	}
	switch {
	case err != nil:
		if !errors.Is(err, io.EOF) {
			s.debug(nc, "connection ended before its protocol was known", err)
		}
		return nil, nil
	case http2:
		return s.HTTP2, conn
	}
	return s.Others, conn
}

func (s *Sniff) debug(nc net.Conn, what string, err error) {
	if s.Logger != nil {
		s.Logger.Debug(what, "client", nc.RemoteAddr(), "error", err)
	}
}

// handshake completes the handshake of a TLS connection and returns the protocol
// agreed upon, "" if none.
func (s *Sniff) handshake(ctx context.Context, nc *tls.Conn) (string, error) {
	if err := s.Handshakes.wait(ctx, nc, s.Timeout); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	if err := nc.HandshakeContext(ctx); err != nil {
		return "", err
	}
	return nc.ConnectionState().NegotiatedProtocol, nil
}

// look waits for as many bytes as it takes to tell. The connection that it
// returns begins with them.
func (s *Sniff) look(ctx context.Context, nc net.Conn) (http2 bool, conn net.Conn, err error) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok || !canPeek {
		return s.read(ctx, nc)
	}
	var buf [len(preface)]byte
	n := 0
	for {
		// The bytes come once more each time, and more of them.
		if n, err = peek(tcp, buf[:], n); err != nil {
			return false, nil, err
		}
		if known, http2 := judge(buf[:n]); known {
			return http2, nc, nil
		}
		if err := s.begun(ctx, nc, n); err != nil {
			return false, nil, err
		}
	}
}

// read is look for connections that cannot be peeked into.
func (s *Sniff) read(ctx context.Context, nc net.Conn) (http2 bool, conn net.Conn, err error) {
	buf := make([]byte, len(preface))
	for n := 0; ; {
		m, err := nc.Read(buf[n:])
		n += m
		if known, http2 := judge(buf[:n]); known {
			return http2, &replay{Conn: nc, head: buf[:n]}, nil
		}
		if err == nil {
			err = s.begun(ctx, nc, n)
		}
		if err != nil {
			return false, nil, err
		}
	}
}

// begun limits the time for the rest of a preface of which n bytes are there.
func (s *Sniff) begun(ctx context.Context, nc net.Conn, n int) error {
	if n == 0 {
		return nil
	}
	if err := nc.SetReadDeadline(time.Now().Add(s.Timeout)); err != nil {
		return err
	}
	// If ctx has ended by now, this may have undone the deadline that its end has set.
	return context.Cause(ctx)
}

// judge reports whether it is known by now what is spoken, and whether it is
// HTTP/2.
func judge(b []byte) (known, http2 bool) {
	n := min(len(b), len(preface))
	switch {
	case string(b[:n]) != preface[:n]:
		return true, false
	case n == len(preface):
		return true, true
	}
	return false, false
}

// replay is a connection of which the first bytes have been read already.
type replay struct {
	net.Conn
	head []byte
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.head) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.head)
	if r.head = r.head[n:]; len(r.head) == 0 {
		r.head = nil
	}
	return n, nil
}

// NetConn returns the connection behind this one.
func (r *replay) NetConn() net.Conn { return r.Conn }

// CloseWrite closes our direction, if the connection can do that.
func (r *replay) CloseWrite() error {
	if half, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
