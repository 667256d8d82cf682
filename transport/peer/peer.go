// Package peer connects the members of a cluster with each other: one port per
// node, mutual TLS 1.3 in which the name in the certificate is the name of the
// node, and over it Raft's own connections and one connection per member for
// forwarded commands and calls.
//
// Members are addressed by name. Where a name lives is looked up in an address
// book: addresses from the command line and addresses learned from the cluster
// are both tried.
package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/certs"
)

// Config configures a [Network]. Zero values mean the defaults, except where
// something is required.
type Config struct {
	// Name is this node's name. Required; its certificate must say the same.
	Name string
	// Listen is the host:port to listen on; port 0 picks a free one. Required.
	Listen string
	// Certs are this node's certificate files. All required. They are read again
	// when they change.
	Certs certs.Files
	// Group is the Raft group that this port belongs to; connections for another
	// are refused. 0 is the only one so far.
	Group uint64
	// Addrs are members' host:port by name, as far as the command line says.
	// The node's own is ignored.
	Addrs map[string]string

	// HandshakeTimeout bounds TLS and preface of a connection; default 5 s.
	HandshakeTimeout time.Duration
	// DialTimeout bounds the making of a connection, all addresses of the member
	// together; default 1 s.
	DialTimeout time.Duration
	// ProbeTimeout bounds the look whether a lost member's port is still open. A
	// port that neither answers nor refuses so long is a crash only if the member
	// has closed a connection itself; default 100 ms, more than a connection needs.
	ProbeTimeout time.Duration

	// RaftTimeout bounds one Raft RPC from its first byte to its answer (a
	// snapshot per 256 KiB); default 10 s. It must be enough for the largest
	// AppendEntries to cross the network and be synced to disk, or a follower that
	// lags never catches up. Hosts that vanish are noticed sooner by other means.
	RaftTimeout time.Duration
	// RaftMaxPool is how many idle Raft connections are kept per member; default 3.
	RaftMaxPool int
	// RaftInFlight is how many AppendEntries may be under way to one member;
	// default 1, which is without pipelining: that can stall a follower for good
	// (hashicorp/raft #612) and gained nothing in measurements.
	RaftInFlight int

	// PingEvery is the time between pings on an idle forwarding connection;
	// default 1 s.
	PingEvery time.Duration
	// IdleTimeout: a member that says nothing for so long on a forwarding
	// connection is given up, and what was forwarded to it ends with
	// CodeInterrupted; default 3 s. It is what frees commands from a leader that
	// is frozen or cut off.
	IdleTimeout time.Duration
	// WriteTimeout: a member that takes nothing for so long on a forwarding
	// connection is given up; default 3 s.
	WriteTimeout time.Duration
	// MaxFrame is the most bytes in a forwarded frame, at least that of the
	// client port on any member; default 128 KiB.
	MaxFrame int
	// MaxBuffered is how many bytes of commands may wait to be written to one
	// member, beyond which more are refused with CodeOverloaded; and how many bytes
	// of commands of one member, and of answers to it, may be under way here before
	// reading from it pauses; default 16 MiB.
	MaxBuffered int
	// MaxInFlight is how many commands of one member may be under way here before
	// reading from it pauses; default 16,384.
	MaxInFlight int

	// MaxConns is how many connections there may be, both directions together,
	// before inbound ones are refused; default 512. Members need about ten each.
	MaxConns int
	// MaxHandshakes is how many inbound connections may be unauthenticated at a
	// time; default 128.
	MaxHandshakes int

	// Logger; nil discards.
	Logger *slog.Logger
}

// Handler is what a node does with what other members forward to it.
type Handler struct {
	// Service carries out forwarded commands. It must not forward them again.
	Service parley.Service
	// Call answers calls; from is the caller's name, as proved by its certificate.
	// nil: they are answered CodeUnsupported.
	Call func(ctx context.Context, from, method string, body []byte) ([]byte, error)
}

// Network is a node's connections with the other members.
//
// To every member whose address is known it keeps one forwarding connection
// open, dialled in the background, so that commands never wait for a connection
// and so that the end of a member's process is always noticed. Raft dials its
// own connections when it needs them.
//
// Network owns all connections and the goroutines that serve them; Close ends
// them and waits. Nothing is buffered beyond Config.MaxBuffered per member; a
// member that does not keep up has commands to it refused.
type Network struct {
	cfg    Config
	log    *slog.Logger
	source *certs.Source
	ln     net.Listener
	book   book
	watch  *watch
	stream *stream
	raft   *raft.NetworkTransport
	quiet  quiet

	life context.Context // ends when Close begins; for this Network's own goroutines only
	end  context.CancelFunc
	wg   sync.WaitGroup

	serving chan struct{} // closed once handler is set
	handler Handler

	mu       sync.Mutex
	closed   bool
	greeting map[net.Conn]struct{} // inbound, not yet authenticated
	conns    map[*conn]struct{}    // authenticated, both directions
	peers    map[string]*Peer
}

// Listen opens the port, accepts Raft connections and begins to connect to the
// members in cfg.Addrs. Forwarded commands and calls of others wait for Serve.
func Listen(cfg Config) (*Network, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	source, err := openCerts(cfg)
	if err != nil {
		return nil, fmt.Errorf("peer port: %w", err)
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive()}
	ln, err := lc.Listen(context.Background(), "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("peer port: %w", err)
	}
	n := &Network{
		cfg: cfg, log: cfg.Logger, source: source, ln: ln,
		serving:  make(chan struct{}),
		greeting: make(map[net.Conn]struct{}),
		conns:    make(map[*conn]struct{}),
		peers:    make(map[string]*Peer),
	}
	n.life, n.end = context.WithCancel(context.Background())
	n.watch = newWatch(n)
	n.stream = newStream(n)
	n.raft = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:          n.stream,
		Logger:          hclogger(cfg.Logger),
		Timeout:         cfg.RaftTimeout,
		MaxPool:         cfg.RaftMaxPool,
		MaxRPCsInFlight: cfg.RaftInFlight,
	})
	n.spawn(n.accept)
	n.spawn(n.watchCertificate)
	for name, addr := range cfg.Addrs {
		if name != cfg.Name {
			n.book.fix(name, addr)
			n.Peer(name)
		}
	}
	return n, nil
}

// Serve sets what is done with forwarded commands and calls, and returns. It is
// called once.
func (n *Network) Serve(h Handler) {
	n.handler = h
	close(n.serving)
}

// Transport is Raft's view of the network. Server addresses are node names.
func (n *Network) Transport() raft.Transport { return n.raft }

// Addr is the address that is listened on.
func (n *Network) Addr() net.Addr { return n.ln.Addr() }

// Certs is what this node proves its name with.
func (n *Network) Certs() *certs.Source { return n.source }

// Crashed tells the names of members whose process ended: a connection with it
// ended, and its port refuses new ones. A name comes once per crash. A host that
// vanished without a word is not told. Names are dropped while 64 are unread.
func (n *Network) Crashed() <-chan string { return n.watch.crashed }

// Learn sets the address that the cluster knows for a member; it is tried beside
// the one in Config.Addrs. "" forgets it.
func (n *Network) Learn(name, addr string) {
	if name == n.cfg.Name || !n.book.learn(name, addr) {
		return
	}
	n.Peer(name).kick()
}

// Peer returns the member called name, known or not.
func (n *Network) Peer(name string) *Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peers[name]
	if p == nil {
		p = newPeer(n, name)
		n.peers[name] = p
		n.spawnLocked(p.run)
	}
	return p
}

// Close ends all connections and waits for all goroutines. Commands of other
// members that are under way are given Config.WriteTimeout to be answered.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		n.wg.Wait()
		return nil
	}
	n.closed = true
	for c := range n.greeting {
		c.Close()
	}
	n.mu.Unlock()

	err := n.ln.Close()
	n.end() // forwarding connections drain by themselves
	n.raft.CloseStreams()
	err = errors.Join(err, n.raft.Close())
	n.abort(func(c *conn) bool { return c.kind == kindRaft })
	cut := time.AfterFunc(n.cfg.WriteTimeout, func() { n.abort(func(*conn) bool { return true }) })
	defer cut.Stop()
	n.wg.Wait()
	return err
}

// abort cuts the connections that match.
func (n *Network) abort(match func(*conn) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if match(c) {
			c.cut()
		}
	}
}

// spawn runs f on a goroutine that Close waits for, and reports false, without
// running it, when Close has begun.
func (n *Network) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.spawnLocked(f)
}

func (n *Network) spawnLocked(f func()) bool {
	if n.closed {
		return false
	}
	n.wg.Go(f)
	return true
}

// openCerts reads the certificate files and makes sure that they are this node's.
func openCerts(cfg Config) (*certs.Source, error) {
	source, err := certs.NewSource(cfg.Certs, cfg.Logger)
	if err != nil {
		return nil, err
	}
	name, err := certs.NodeName(source.Leaf())
	if err == nil && name != cfg.Name {
		err = fmt.Errorf("it is that of %s, this node is %s", name, cfg.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", cfg.Certs.Cert, err)
	}
	return source, nil
}

// watchCertificate sees to it that a certificate about to expire is reported
// even if no connection is made for weeks.
func (n *Network) watchCertificate() {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		n.source.Check()
		select {
		case <-tick.C:
		case <-n.life.Done():
			return
		}
	}
}

func (c Config) withDefaults() (Config, error) {
	if err := certs.CheckName(c.Name); err != nil {
		return c, err
	}
	if c.Certs.Cert == "" || c.Certs.Key == "" || c.Certs.CA == "" {
		return c, errors.New("peer port: certificate, key and authority are all needed")
	}
	if c.Listen == "" {
		return c, errors.New("peer port: no address to listen on")
	}
	for name, addr := range c.Addrs {
		if err := certs.CheckName(name); err != nil {
			return c, fmt.Errorf("member list: %w", err)
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return c, fmt.Errorf("member list: %s: %w", name, err)
		}
	}
	or(&c.HandshakeTimeout, 5*time.Second)
	or(&c.DialTimeout, time.Second)
	or(&c.ProbeTimeout, 100*time.Millisecond)
	or(&c.RaftTimeout, 10*time.Second)
	or(&c.RaftMaxPool, 3)
	or(&c.RaftInFlight, 1)
	or(&c.PingEvery, time.Second)
	or(&c.IdleTimeout, 3*time.Second)
	or(&c.WriteTimeout, 3*time.Second)
	or(&c.MaxFrame, 128<<10)
	or(&c.MaxBuffered, 16<<20)
	or(&c.MaxInFlight, 16384)
	or(&c.MaxConns, 512)
	or(&c.MaxHandshakes, 128)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// or sets a field that was left zero.
func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// keepAlive makes the kernel notice within about 4 s that the other host has
// vanished, on connections that wait.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3}
}
