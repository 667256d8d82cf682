// Package tcp is the gateway of the client port: it speaks the wire protocols,
// classic and framed, in front of any [parley.Service].
//
// The first frame tells the two apart: a hello opens the framed protocol, which
// is package mux's business; anything else is a classic client, which is served
// here. A classic client knows nothing of clusters: whatever goes wrong behind
// its connection is retried, resumed or answered with "error".
package tcp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/fair"
	"github.com/parley-chat/parley/mux"
	"github.com/parley-chat/parley/wire"
)

// Config configures a [Gateway].
type Config struct {
	// Service does the work, for clients that have not logged in. Required.
	Service parley.Service
	// Login gives clients another service for what they log in with; nil: nobody can.
	Login parley.Login
	// Seats bounds the framed connections of each user who has logged in; nil: nothing
	// does. Classic ones watch, and are bounded by that.
	Seats *fair.Seats[parley.Incarnation]
	// NodeID is the name of this node, which framed clients are told. Required.
	NodeID string
	// Leadership says who leads, so that framed clients can be sent there; nil:
	// they are all served here.
	Leadership mux.Leadership
	// HandshakeTimeout is how long the TLS handshake may take, and the rest of the
	// first frame once it has begun; default 5 s.
	HandshakeTimeout time.Duration
	// FrameTimeout is how long the rest of a classic frame may take once it has
	// begun; default 5 s.
	FrameTimeout time.Duration
	// CommandTimeout is how long a classic client waits before it is told "error".
	// It should be longer than a change of leader; default 5 s.
	CommandTimeout time.Duration
	// IdleTimeout: a framed client that is silent for so long is closed, and a
	// classic one whose TCP confirms nothing of what it was sent; default 90 s.
	// Classic clients may be silent, their hosts are probed by TCP.
	IdleTimeout time.Duration
	// WriteTimeout: a client that takes nothing for so long is closed; default 10 s.
	WriteTimeout time.Duration
	// MaxFrame is the most bytes in a frame of the framed protocol; default 128 KiB.
	MaxFrame int
	// Buffered is how many bytes may wait for a slow client before its pushes and
	// commands pause; the mailbox is the buffer. The kernel is told to buffer about
	// as much for a classic one. Default 256 KiB.
	Buffered int
	// Gate bounds the commands of all connections together that are under way, and
	// shares them fairly; nil: there is no such limit.
	Gate *fair.Gate
	// Logger, nil: none.
	Logger *slog.Logger
	// Metrics, nil: none.
	Metrics prometheus.Registerer
}

func (c *Config) setDefaults() {
	orDefault(&c.HandshakeTimeout, 5*time.Second)
	orDefault(&c.FrameTimeout, 5*time.Second)
	orDefault(&c.CommandTimeout, 5*time.Second)
	orDefault(&c.IdleTimeout, 90*time.Second)
	orDefault(&c.WriteTimeout, 10*time.Second)
	orDefault(&c.MaxFrame, wire.DefaultMaxFrame)
	orDefault(&c.Buffered, 256<<10)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// orDefault gives a setting that is not set its default.
func orDefault[T ~int | ~int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Gateway serves client connections. It keeps nothing between them but memory
// for reuse.
type Gateway struct {
	cfg     Config
	log     *slog.Logger
	metrics metrics
	buffers wire.Buffers
	leader  *mux.Server // of framed clients that follow the leader
	stay    *mux.Server // of those that do not
}

// New returns a gateway.
func New(cfg Config) *Gateway {
	cfg.setDefaults()
	g := &Gateway{cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Metrics)}
	g.leader, g.stay = newFramed(cfg)
	return g
}

// farewell is how long a connection that is going to be closed waits for the
// client to take what it was sent.
const farewell = time.Second

// Handle serves a connection until the client ends it or breaks a limit, or, in
// good order, until ctx ends. It leaves no goroutine behind.
func (g *Gateway) Handle(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	if serve := g.open(ctx, nc); serve != nil {
		serve()
	}
}

// open reads the first frame and returns what serves the connection from there
// on, so that what was needed up to there is not on the stack of an idle
// connection. nil: the connection is at its end.
func (g *Gateway) open(ctx context.Context, nc net.Conn) (serve func()) {
	if err := g.handshake(ctx, nc); err != nil {
		g.log.Debug("TLS handshake failed", "client", nc.RemoteAddr(), "error", err)
		return nil
	}
	d := &deadlines{nc: nc, rest: g.cfg.HandshakeTimeout}
	stop := context.AfterFunc(ctx, d.drain)
	input := wire.NewInput(nc, &g.buffers)
	in := wire.NewClassicReader(input)
	in.Waiting = d.waiting

	first, err := in.Next()
	d.rest = g.cfg.FrameTimeout
	switch {
	case err == nil && first.Command == wire.CommandHello:
		stop() // from here on the deadlines are not ours
		g.metrics.connections.WithLabelValues("framed").Inc()
		if server := g.welcome(nc, first); server != nil {
			return func() { _ = server.Serve(ctx, nc, input) } // why it ends is in the log
		}
		return nil
	case err == nil || errors.Is(err, wire.ErrClassic):
		g.metrics.connections.WithLabelValues("classic").Inc()
		c := newClassic(g, nc, in)
		c.first, c.bad, c.drained = first, err, stop
		return func() { c.serve(ctx) }
	case !errors.Is(err, io.EOF):
		g.log.Debug("connection ended before its first frame", "client", nc.RemoteAddr(), "error", err)
	}
	stop()
	return nil
}

// handshake completes the handshake of a TLS connection.
func (g *Gateway) handshake(ctx context.Context, nc net.Conn) error {
	secure, ok := nc.(interface{ HandshakeContext(context.Context) error })
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.HandshakeTimeout)
	defer cancel()
	return secure.HandshakeContext(ctx)
}
