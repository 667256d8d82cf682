package peer

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// stream is the part of the network that raft.NetworkTransport sees.
type stream struct {
	n        *Network
	incoming chan *conn
	done     chan struct{} // closed by Close
	once     sync.Once
}

var _ raft.StreamLayer = (*stream)(nil)

func newStream(n *Network) *stream {
	return &stream{n: n, incoming: make(chan *conn), done: make(chan struct{})}
}

// hand gives an inbound connection to Raft. Network.Close waits until Raft has
// let go of it.
func (s *stream) hand(c *conn) {
	s.n.wg.Add(1) // by a goroutine that is counted itself
	c.onClose = s.n.wg.Done
	select {
	case s.incoming <- c:
	case <-s.done:
		c.Close()
	}
}

func (s *stream) Accept() (net.Conn, error) {
	select {
	case c := <-s.incoming:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close ends Raft's connections; Raft calls it when it has shut down.
func (s *stream) Close() error {
	s.once.Do(func() { close(s.done) })
	s.n.abort(func(c *conn) bool { return c.kind == kindRaft })
	return nil
}

// Addr is what Raft takes for this server's address: the node's name.
func (s *stream) Addr() net.Addr { return nodeAddr(s.n.cfg.Name) }

// Dial connects to the member whose name is address. It takes no longer than
// Config.DialTimeout: Raft's own limit is meant for whole RPCs.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	select {
	case <-s.done:
		return nil, net.ErrClosed
	default:
	}
	ctx, cancel := context.WithTimeout(s.n.life, min(timeout, s.n.cfg.DialTimeout))
	defer cancel()
	c, err := s.n.dial(ctx, string(address), kindRaft)
	if err != nil {
		return nil, err // not a nil *conn in a net.Conn
	}
	return c, nil
}

// nodeAddr is a node's name as a net.Addr.
type nodeAddr string

func (nodeAddr) Network() string  { return "parley" }
func (a nodeAddr) String() string { return string(a) }

// hclogger sends what Raft's transport logs to log.
func hclogger(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off}) // writes nothing itself
	l.RegisterSink(sink{log})
	return l
}

type sink struct{ log *slog.Logger }

func (s sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Info:
		to = slog.LevelInfo
	case hclog.Warn, hclog.Error: // a lost connection is an "error" there; nothing fatal is reported this way
		to = slog.LevelWarn
	}
	s.log.Log(context.Background(), to, "raft transport: "+msg, args...)
}
