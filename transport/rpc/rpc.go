// Package rpc is the gateway for gRPC: it offers parley.v1, and the exercise's
// helloworld.Chat, in front of any [parley.Service].
//
// It is handed connections that begin with the preface of HTTP/2, TLS already
// taken off. Whatever goes wrong behind a call is retried until the call's
// deadline; what then is left is a status with a stable reason.
package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/api/helloworld"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
	"github.com/parley-chat/parley/internal/fair"
)

// Leader is who leads, as a node knows it.
type Leader struct {
	ID     string // node id, "" if unknown
	Client string // its advertised client address
	Self   bool   // it is this node
}

// Leadership returns who leads and a channel that is closed when that changes.
type Leadership func() (Leader, <-chan struct{})

// Config configures a [Gateway].
type Config struct {
	// Service does the work, for clients that have not logged in. Required.
	Service parley.Service
	// Login gives clients another service for what they log in with; nil: nobody can.
	Login parley.Login
	// NodeID is the name of this node, which clients are told. Required.
	NodeID string
	// Leadership says who leads, for hints and for the health service; nil: no
	// hints, and always healthy.
	Leadership Leadership
	// HandshakeTimeout is how long the exchange of HTTP/2 settings may take; default 5 s.
	HandshakeTimeout time.Duration
	// CommandTimeout is how long a call without a deadline may take, the arrival of
	// its message included; of a watch, that alone. It should be longer than a change
	// of leader; default 5 s. A call with a deadline may take until then, but at most
	// a minute.
	CommandTimeout time.Duration
	// IdleTimeout: a connection without calls for so long is closed, in good order;
	// one that is silent for a third of it is probed. Default 90 s.
	IdleTimeout time.Duration
	// WriteTimeout: a connection whose other end does not answer a probe for so long
	// is closed; default 10 s.
	WriteTimeout time.Duration
	// MaxFrame is the most bytes in a message, either way; default 128 KiB. Any
	// answer of the service must fit.
	MaxFrame int
	// MaxStreams is how many calls, watches included, may be under way on one
	// connection; further ones wait at the client. Each may hold one message of a
	// request. Default 128.
	MaxStreams int
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
	orDefault(&c.CommandTimeout, 5*time.Second)
	orDefault(&c.IdleTimeout, 90*time.Second)
	orDefault(&c.WriteTimeout, 10*time.Second)
	orDefault(&c.MaxFrame, 128<<10)
	orDefault(&c.MaxStreams, 128)
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

// Gateway serves gRPC connections.
//
// It owns the goroutines of its gRPC server, one that lets the server come to an
// end, and one that tells the health service who leads; Close ends them all. A
// client that does not read holds up its own calls only: a watch then waits, and
// the mailbox is the buffer.
type Gateway struct {
	cfg      Config
	log      *slog.Logger
	metrics  metrics
	anybody  *caller // who has not logged in
	callers  *callers
	lanes    lanes
	server   *grpc.Server
	health   *health.Server
	conns    *listener
	draining context.Context
	drain    context.CancelFunc // no new calls; watches end
	running  sync.WaitGroup
}

// minPing is the least pause between pings that clients may send.
const minPing = 5 * time.Second

// New returns a gateway. It must be closed.
func New(cfg Config) *Gateway {
	cfg.setDefaults()
	g := &Gateway{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Metrics), anybody: &caller{svc: cfg.Service, sessions: newSessions(cfg.Service, anybodysSessions)},
		lanes: lanes{all: make(map[parley.SessionID]*lane)}, health: health.NewServer(), conns: newListener(),
	}
	g.callers = newCallers(g)
	g.draining, g.drain = context.WithCancel(context.Background())
	g.server = grpc.NewServer(
		grpc.MaxRecvMsgSize(cfg.MaxFrame), grpc.MaxSendMsgSize(cfg.MaxFrame),
		grpc.MaxHeaderListSize(16<<10), grpc.MaxConcurrentStreams(uint32(cfg.MaxStreams)),
		grpc.ReadBufferSize(16<<10),
		grpc.ConnectionTimeout(cfg.HandshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: cfg.IdleTimeout, Time: max(cfg.IdleTimeout/3, time.Second), Timeout: cfg.WriteTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.InTapHandle(g.begin), grpc.StatsHandler(follower{g}),
		grpc.ChainUnaryInterceptor(g.unary), grpc.ChainStreamInterceptor(g.stream),
		grpc.WaitForHandlers(true),
	)
	parleyv1.RegisterChatServiceServer(g.server, &chat{g: g})
	helloworld.RegisterChatServer(g.server, &legacy{g: g, boxes: make(map[parley.Incarnation]*box)})
	healthpb.RegisterHealthServer(g.server, g.health)
	reflection.Register(g.server)
	g.run()
	return g
}

// run starts what runs until the drain.
func (g *Gateway) run() {
	g.running.Go(func() {
		// It ends with an error only if it is called twice.
		if err := g.server.Serve(g.conns); err != nil && g.draining.Err() == nil {
			g.log.Error("the gRPC server ended by itself", "error", err)
		}
	})
	g.running.Go(func() {
		<-g.draining.Done()
		g.health.Shutdown()
		g.server.GracefulStop()
	})
	g.running.Go(g.tellHealth)
}

// Handle serves a connection until the client ends it or breaks a limit, or, in
// good order, until ctx ends: then all connections of the gateway are told to
// come to an end, and no more are taken. It leaves no goroutine behind.
func (g *Gateway) Handle(ctx context.Context, nc net.Conn) {
	c := &conn{Conn: nc, closed: make(chan struct{})}
	stop := context.AfterFunc(ctx, g.drain)
	defer stop()
	if !g.conns.hand(c) {
		c.Close()
		return
	}
	g.metrics.connections.Inc()
	<-c.closed
}

// Close ends the gateway: calls under way are finished for as long as their
// connections are open.
func (g *Gateway) Close() {
	g.drain()
	g.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	g.anybody.sessions.close(ctx, g.log)
	g.callers.closeAll(ctx)
}

// farewell is how long the gateway tries to close its sessions at the end; those
// left open expire.
const farewell = time.Second

// tellHealth keeps the health service current: a node serves while it knows who
// leads.
func (g *Gateway) tellHealth() {
	services := []string{"", parleyv1.ChatService_ServiceDesc.ServiceName, helloworld.Chat_ServiceDesc.ServiceName}
	for {
		state := healthpb.HealthCheckResponse_SERVING
		var changed <-chan struct{}
		if g.cfg.Leadership != nil {
			var leader Leader
			if leader, changed = g.cfg.Leadership(); leader.ID == "" {
				state = healthpb.HealthCheckResponse_NOT_SERVING
			}
		}
		for _, name := range services {
			g.health.SetServingStatus(name, state)
		}
		select {
		case <-changed:
		case <-g.draining.Done():
			return
		}
	}
}

// conn is a connection that tells when it is closed.
type conn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

// listener gives the gRPC server the connections that the gateway is handed.
type listener struct {
	conns chan net.Conn
	once  sync.Once
	over  chan struct{}
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), over: make(chan struct{})}
}

// hand gives a connection to whoever accepts it, and reports false if nobody
// will any more.
func (l *listener) hand(nc net.Conn) bool {
	select {
	case l.conns <- nc:
		return true
	case <-l.over:
		return false
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.over) })
	return nil
}

func (l *listener) Addr() net.Addr { return addr{} }

// addr is the address of a listener that listens nowhere.
type addr struct{}

func (addr) Network() string { return "parley" }
func (addr) String() string  { return "client port" }

var (
	errPatience = errors.New("the time for the call is up")
	errDraining = errors.New("this node is shutting down")
)
