package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/account"
	"github.com/parley-chat/parley/certs"
	"github.com/parley-chat/parley/internal/fair"
	"github.com/parley-chat/parley/node"
	"github.com/parley-chat/parley/transport"
	"github.com/parley-chat/parley/transport/peer"
	"github.com/parley-chat/parley/transport/rpc"
	"github.com/parley-chat/parley/transport/tcp"
)

// network is the peer network as a node sees it.
type network struct{ *peer.Network }

var _ node.Network = network{}

func (n network) Transport() raft.Transport  { return n.Network.Transport() }
func (n network) Peer(name string) node.Peer { return n.Network.Peer(name) }

// server is a running node with all that belongs to it.
//
//	clients ─ gateways ─┐
//	                    node ─ peer network ─ other members
//	operators ──── ops ─┘
type server struct {
	s   *settings
	log *slog.Logger
	reg *prometheus.Registry

	trust trust
	ops   *ops
	peers *peer.Network
	node  *node.Node
	guard *account.Guard // what clients are given of the node

	administrator *parley.Session // of administrators' commands

	admin *adminServer

	gateway     context.CancelFunc // begins the drain of the client connections
	gatewayDone chan struct{}      // closed once they are closed
	gatewayErr  error              // valid then
}

// serve runs a node until ctx ends or the node fails.
func serve(ctx context.Context, a *app, s *settings) error {
	log, err := s.logger(a)
	if err != nil {
		return err
	}
	quietGRPC(log)
	spread()
	quicken()
	reg := newRegistry()
	srv := &server{s: s, log: log, reg: reg, trust: trust{reg: reg}}
	if err := srv.start(ctx); err != nil { // the process ends: there is nobody to clean up for
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // stopped amid its start
		}
		return err
	}
	following, unfollow := context.WithCancel(ctx)
	defer unfollow()
	go srv.trust.follow(following, log) // it ends with the process
	log.Info("serving", "node", s.name, "version", buildVersion().Version,
		"clients", s.clientListen, "peers", s.peerListen, "ops", srv.ops.ln.Addr().String())
	for gateway := srv.gatewayDone; ; gateway = nil {
		select {
		case <-ctx.Done():
			return srv.stop()
		case <-srv.node.Done():
			// Nothing is saved by an orderly end: what the disk says cannot be trusted,
			// and clients are better off with another node at once.
			if err := srv.node.Err(); err != nil {
				return fmt.Errorf("node %s: %w", s.name, err)
			}
			return errors.New("the node ended by itself")
		case <-gateway:
			if !srv.ops.drained.Load() {
				return fmt.Errorf("client listener: %w", srv.gatewayErr)
			}
		}
	}
}

// start brings up everything, clients last.
func (v *server) start(ctx context.Context) (err error) {
	s := v.s
	files, err := certs.Load(s.certs, s.name)
	if err != nil {
		return err
	}
	if v.ops, err = listenOps(s.opsListen, s.opsProfiles, v.reg, v.log); err != nil {
		return err
	}
	clients, err := v.listenClients(files)
	if err != nil {
		return err
	}
	if v.peers, err = peer.Listen(v.peerConfig(files)); err != nil {
		return err
	}
	v.trust.add("peer", v.peers.Certs())
	if v.node, err = node.Open(ctx, v.nodeConfig()); err != nil {
		return err
	}
	v.guard = account.New(account.Config{
		Cluster: v.node, MinPassword: s.auth.minPassword, MaxPassword: s.auth.maxPassword,
		Params: account.Params{Memory: uint32(s.auth.memory >> 10), Passes: s.auth.passes},
		Hashes: s.auth.hashes, MaxWaiting: s.auth.waiting, MaxDelay: s.auth.delay, Sends: s.client.sendsPerUser, Sessions: s.client.sessionsPerUser,
		Logger: v.log, Metrics: v.reg,
	})
	v.administrator = parley.NewSession(v.guard.Admin())
	v.peers.Serve(peer.Handler{Service: v.node.Local(), Call: v.node.HandleCall})
	var n opsNode = v.node
	v.ops.node.Store(&n)
	v.serveClients(clients)
	return wrap("admin listener", v.listenAdmin(files))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// stop ends everything in order: leadership goes to another node, clients are
// told and their commands finished, then the sockets close.
func (v *server) stop() error {
	v.log.Info("stopping", "node", v.s.name)
	v.ops.ended.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), v.s.client.shutdown)
	defer cancel()
	if err := v.node.Transfer(ctx); err != nil {
		v.log.Warn("leadership could not be handed over", "err", err)
	}
	v.gateway()
	<-v.gatewayDone
	v.admin.close(ctx)
	err := v.node.Shutdown(ctx)
	v.peers.Close()
	v.ops.close(ctx)
	if err != nil {
		return fmt.Errorf("node %s: %w", v.s.name, err)
	}
	v.log.Info("stopped", "node", v.s.name)
	return nil
}

// listenClients opens the client port, with TLS unless plain text is allowed.
func (v *server) listenClients(files certs.Files) (net.Listener, error) {
	// The kernel says of plain TCP only, and not of MPTCP, what a classic client
	// has received.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", v.s.clientListen)
	if err != nil {
		return nil, fmt.Errorf("client listener: %w", err)
	}
	if v.s.clientPlaintext {
		warnPlaintext(v.log, v.s.clientListen)
		return ln, nil
	}
	files.CA = "" // clients need no certificate
	if v.s.clientCert != "" {
		files.Cert, files.Key = v.s.clientCert, v.s.clientKey
	}
	source, err := certs.NewSource(files, v.log)
	if err != nil {
		return nil, err
	}
	v.trust.add("client", source)
	cfg := source.Server()
	cfg.NextProtos = []string{"h2"} // gRPC clients insist on it; others name no protocol
	return tls.NewListener(ln, cfg), nil
}

// serveClients starts the gateways.
func (v *server) serveClients(ln net.Listener) {
	c := v.s.client
	gate := fair.NewGate(c.maxCommands, func() bool {
		leader, _ := v.node.Leadership()
		return leader.Self
	})
	v.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "parley_connections_waiting", Help: "Connections whose next command waits for its turn, because --max-commands are under way or a crowd has a pace.",
	}, func() float64 { return float64(gate.Waiting()) }))
	v.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "parley_crowd_pace", Help: "Commands a second that are let in of a crowd of connections with a backlog, 0: as many as come.",
	}, gate.Pace))
	seats := fair.NewSeats[parley.Incarnation](c.maxConnsPerUser)
	v.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "parley_user_connections_refused_total", Help: "Logins that were refused because the user had --max-conns-per-user connections.",
	}, func() float64 { return float64(seats.Refused()) }))
	gateway := tcp.New(tcp.Config{
		Service: v.guard.Anybody(), Login: v.guard.Login, Seats: seats, NodeID: v.s.name, Leadership: v.node.Leadership,
		HandshakeTimeout: c.handshake, FrameTimeout: c.frame, CommandTimeout: c.command,
		IdleTimeout: c.idle, WriteTimeout: c.write,
		MaxFrame: int(c.maxFrame), Buffered: int(c.buffer), Gate: gate,
		Logger: v.log, Metrics: v.reg,
	})
	calls := rpc.New(rpc.Config{
		Service: v.guard.Anybody(), Login: v.guard.Login, NodeID: v.s.name, Leadership: v.leadership,
		HandshakeTimeout: c.handshake, CommandTimeout: c.command, IdleTimeout: c.idle, WriteTimeout: c.write,
		MaxFrame: int(c.maxFrame), Gate: gate, Logger: v.log, Metrics: v.reg,
	})
	sniff := &transport.Sniff{
		HTTP2: calls.Handle, Others: gateway.Handle, Timeout: c.handshake, Logger: v.log,
		Handshakes: transport.NewHandshakes(transport.HandshakesConfig{
			PerSecond: c.maxHandshakes, PerIP: c.maxHandshakesPerIP, Logger: v.log, Metrics: v.reg,
		}),
	}
	listener := transport.New(transport.Config{
		MaxConns: boundConns(c.maxConns, v.log), MaxConnsPerIP: c.maxConnsPerIP, SocketBuffer: int(c.buffer / 2), DrainTimeout: c.shutdown / 2,
		Logger: v.log, Metrics: v.reg,
	})
	ctx, cancel := context.WithCancel(context.Background())
	v.gateway = cancel
	v.gatewayDone = make(chan struct{})
	go func() {
		defer close(v.gatewayDone)
		v.gatewayErr = listener.Serve(ctx, ln, sniff.Handle)
		calls.Close()
	}()
}

// leadership is the node's, as the gRPC gateway wants to know it.
func (v *server) leadership() (rpc.Leader, <-chan struct{}) {
	leader, changed := v.node.Leadership()
	return rpc.Leader(leader), changed
}

func (v *server) nodeConfig() node.Config {
	r := v.s.raft
	return node.Config{
		Name: v.s.name, Dir: v.s.data, ClientAddr: v.s.clientAdvertise, PeerAddr: v.s.peerAdvertise,
		Members: v.s.names, Join: v.s.join, LogStore: node.LogStore(r.store), Network: network{v.peers},
		Limits: v.s.state.limits(), SessionIdle: v.s.state.sessionIdle,
		HeartbeatTimeout: r.heartbeat, CommitTimeout: r.commit, DiskTimeout: r.disk,
		ProposeTimeout: r.propose, SnapshotInterval: r.snapshot,
		QueueCommands: r.queueCommands, QueueBytes: int(r.queueBytes),
		BatchCommands: r.batchCommands, BatchBytes: int(r.batchBytes), Watches: v.s.client.maxWatches, Lists: v.s.client.maxLists,
		InFlight: r.inFlight, TrailingLogs: max(r.trailing, node.MinTrailingLogs), LogStageBytes: r.stageBytes,
		CheckpointBytes: r.checkpointBytes, DirtyBytes: r.dirtyBytes,
		ReplayBytes: r.replayBytes, CheckpointEvery: r.checkpointEvery,
		Warnings: v.trust.warnings,
		Logger:   v.log, Metrics: v.reg,
	}
}

func (v *server) peerConfig(files certs.Files) peer.Config {
	p := v.s.peer
	return peer.Config{
		Name: v.s.name, Listen: v.s.peerListen, Certs: files, Addrs: v.s.addrs,
		HandshakeTimeout: p.handshake, DialTimeout: p.dial, ProbeTimeout: p.probe,
		RaftTimeout: p.rpc, RaftMaxPool: p.raftPool,
		PingEvery: p.ping, IdleTimeout: p.idle, WriteTimeout: p.write,
		MaxFrame: int(v.s.client.maxFrame), MaxBuffered: int(p.buffer), MaxInFlight: p.maxInFlight,
		MaxConns: p.maxConns, MaxHandshakes: p.maxHandshakes,
		Logger: v.log,
	}
}
