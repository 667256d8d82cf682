// Package transport accepts connections, keeps track of them and lets them come
// to an end. What is spoken on them is the business of a handler.
package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config configures a [Server].
type Config struct {
	// MaxConns is the most connections at a time; further ones are closed at
	// once. Default 16,384. Each may cost half a MiB in the worst case.
	MaxConns int
	// MaxConnsPerIP is the most connections at a time from one address; 0: as many
	// as MaxConns. Clients behind one router share an address.
	MaxConnsPerIP int
	// KeepAlive is how long a connection is silent before TCP probes the other
	// end, and the pause between the probes; the third one unanswered ends it.
	// Default 30 s. Negative: no probes.
	KeepAlive time.Duration
	// SocketBuffer is how many bytes the kernel holds for a connection in each
	// direction, beside as much for its own bookkeeping. 0: as many as it sees fit,
	// which is megabytes, for a client that sends faster than it is served or does not
	// read; and when the kernel has no memory left, it drops everybody's packets.
	SocketBuffer int
	// DrainTimeout is how long handlers may take to finish once the server stops;
	// then their connections are closed under them. Default 10 s.
	DrainTimeout time.Duration
	// Logger, nil: none.
	Logger *slog.Logger
	// Metrics, nil: none.
	Metrics prometheus.Registerer
}

// Handler serves one connection until it ends. When ctx ends it should come to
// an end soon and in good order; when the connection is closed under it, at
// once. The server closes the connection behind it.
type Handler func(ctx context.Context, nc net.Conn)

// Server accepts connections within limits and hands each to a handler in a
// goroutine that Serve waits for.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics metrics

	mu    sync.Mutex
	conns map[net.Conn]netip.Addr
	perIP map[netip.Addr]int
	told  time.Time // when a refusal was last logged
}

// New returns a server. Its limits hold for all its listeners together.
func New(cfg Config) *Server {
	orDefault(&cfg.MaxConns, 16384)
	orDefault(&cfg.DrainTimeout, 10*time.Second)
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Metrics),
		conns: make(map[net.Conn]netip.Addr), perIP: make(map[netip.Addr]int),
	}
}

// orDefault gives a setting that is not set its default.
func orDefault[T ~int | ~int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Serve accepts connections until ctx ends or the listener fails for good. It
// closes the listener, ends the handlers' context, waits for the handlers,
// after DrainTimeout with their connections closed, and returns nil if ctx has
// ended.
func (s *Server) Serve(ctx context.Context, ln net.Listener, handle Handler) error {
	handlers, stopHandlers := context.WithCancel(ctx)
	defer stopHandlers()
	unblock := context.AfterFunc(ctx, func() { ln.Close() })
	defer unblock()
	var running sync.WaitGroup
	err := s.accept(ctx, ln, func(nc net.Conn) {
		running.Add(1)
		go s.serve(handlers, nc, handle, &running)
	})
	ln.Close()
	stopHandlers()
	s.drain(&running)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// accept hands on connections until ctx ends or the listener fails for good.
func (s *Server) accept(ctx context.Context, ln net.Listener, start func(net.Conn)) error {
	const longest = time.Second
	pause := 5 * time.Millisecond
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			if s.admit(nc) {
				start(nc)
			}
			continue
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return err
		}
		// Out of descriptors, or a connection that broke before it was accepted.
		s.log.Error("cannot accept a connection", "error", err, "retry", pause)
		select {
		case <-time.After(pause):
			pause = min(2*pause, longest)
		case <-ctx.Done():
		}
	}
}

// admit takes note of a connection, or closes it if there are too many.
func (s *Server) admit(nc net.Conn) bool {
	addr := remoteIP(nc)
	s.mu.Lock()
	total, here := len(s.conns), s.perIP[addr]
	ok := total < s.cfg.MaxConns && (s.cfg.MaxConnsPerIP <= 0 || here < s.cfg.MaxConnsPerIP)
	tell := !ok && time.Since(s.told) > time.Second // a flood must not flood the log
	if tell {
		s.told = time.Now()
	}
	if ok {
		s.conns[nc] = addr
		s.perIP[addr]++
	}
	s.mu.Unlock()
	if tell {
		s.log.Warn("connections are being refused: too many", "client", nc.RemoteAddr(), "connections", total, "from_address", here)
	}
	if !ok {
		s.metrics.refused.Inc()
		nc.Close()
		return false
	}
	s.metrics.accepted.Inc()
	s.metrics.open.Inc()
	if err := s.tune(nc); err != nil {
		s.log.Debug("cannot set TCP keep-alive and buffers", "client", nc.RemoteAddr(), "error", err)
	}
	return true
}

// serve runs the handler. Its stack is that of an idle connection: a small one.
func (s *Server) serve(ctx context.Context, nc net.Conn, handle Handler, running *sync.WaitGroup) {
	defer s.served(nc, running)
	handle(ctx, nc)
}

// served is deferred by serve. A handler's panic costs its connection, not the node.
func (s *Server) served(nc net.Conn, running *sync.WaitGroup) {
	if p := recover(); p != nil {
		s.metrics.panics.Inc()
		s.log.Error("panic while serving a connection", "client", nc.RemoteAddr(), "panic", p, "stack", string(debug.Stack()))
	}
	s.forget(nc)
	running.Done()
}

func (s *Server) forget(nc net.Conn) {
	nc.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	addr := s.conns[nc]
	delete(s.conns, nc)
	if s.perIP[addr]--; s.perIP[addr] == 0 {
		delete(s.perIP, addr)
	}
	s.metrics.open.Dec()
}

// drain waits for the handlers, for a while in peace.
func (s *Server) drain(running *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		running.Wait()
	}()
	patience := time.NewTimer(s.cfg.DrainTimeout)
	defer patience.Stop()
	select {
	case <-done:
		return
	case <-patience.C:
	}
	s.mu.Lock()
	if n := len(s.conns); n > 0 {
		s.log.Warn("closing connections that do not come to an end", "connections", n)
	}
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	<-done
}

func (s *Server) tune(nc net.Conn) error {
	tcp, ok := TCPConn(nc)
	if !ok {
		return nil
	}
	err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: s.cfg.KeepAlive > 0, Idle: s.cfg.KeepAlive, Interval: s.cfg.KeepAlive, Count: 3,
	})
	if n := s.cfg.SocketBuffer; n > 0 {
		err = errors.Join(err, tcp.SetReadBuffer(n), tcp.SetWriteBuffer(n))
	}
	return err
}

// TCPConn returns the TCP connection that nc is or that it wraps, as a
// [crypto/tls.Conn] does.
func TCPConn(nc net.Conn) (*net.TCPConn, bool) {
	for {
		switch c := nc.(type) {
		case *net.TCPConn:
			return c, true
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		default:
			return nil, false
		}
	}
}

// remoteIP is the other end's address without port, the zero address if it has none.
func remoteIP(nc net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
