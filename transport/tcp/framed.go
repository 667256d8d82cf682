package tcp

import (
	"io"
	"net"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/mux"
	"github.com/parley-chat/parley/transport"
	"github.com/parley-chat/parley/wire"
)

// newFramed returns what serves framed connections: those whose clients follow
// the leader, and those whose clients stay.
func newFramed(cfg Config) (leader, stay *mux.Server) {
	c := mux.ServerConfig{
		Service: cfg.Service, Login: cfg.Login, Seats: cfg.Seats, MaxFrame: cfg.MaxFrame, MaxBuffered: cfg.Buffered,
		IdleTimeout: cfg.IdleTimeout, WriteTimeout: cfg.WriteTimeout, Gate: cfg.Gate, Logger: cfg.Logger,
	}
	stay = mux.NewServer(c)
	c.Leadership = cfg.Leadership
	return mux.NewServer(c), stay
}

// welcome answers a hello and returns who serves the framed protocol behind it,
// nil if nobody does.
func (g *Gateway) welcome(nc net.Conn, first wire.Classic) *mux.Server {
	answer, mode := g.hello(first)
	nc.SetReadDeadline(time.Time{})
	nc.SetWriteDeadline(time.Now().Add(g.cfg.WriteTimeout))
	if _, err := nc.Write(answer); err != nil {
		g.log.Debug("hello not answered", "client", nc.RemoteAddr(), "error", err)
		return nil
	}
	nc.SetWriteDeadline(time.Time{})
	switch mode {
	case wire.ModeLeader:
		return g.leader
	case wire.ModeAny:
		return g.stay
	}
	hangUp(nc)
	return nil
}

// hello decides what to answer a hello, and returns the mode in which the
// client is served, "" if it is not.
func (g *Gateway) hello(first wire.Classic) ([]byte, wire.Mode) {
	hello, refusal := wire.ParseHello(first)
	if refusal != nil {
		return wire.AppendHelloRefusal(nil, refusal), ""
	}
	if hello.Mode == wire.ModeLeader && g.cfg.Leadership != nil {
		switch leader := g.whoLeads(); {
		case leader.Self:
		case leader.ID == "":
			return wire.AppendHelloRefusal(nil, parley.Errorf(parley.CodeNoQuorum, "no leader is known at the moment")), ""
		default:
			return wire.AppendRedirect(nil, wire.Redirect{Node: leader.ID, Addr: leader.Client}), ""
		}
	}
	welcome := wire.Welcome{Node: g.cfg.NodeID, MaxFrame: g.cfg.MaxFrame, Idle: g.cfg.IdleTimeout}
	return wire.AppendWelcome(nil, welcome), hello.Mode
}

// hangUp closes our direction and waits a little for the client to close its
// own: input that nobody reads would make TCP discard what was sent last.
func hangUp(nc net.Conn) {
	tcp, ok := transport.TCPConn(nc)
	if !ok {
		return
	}
	if secure, ok := nc.(interface{ CloseWrite() error }); ok {
		secure.CloseWrite() // for TLS, its own goodbye first
	}
	tcp.CloseWrite()
	tcp.SetReadDeadline(time.Now().Add(farewell))
	io.Copy(io.Discard, io.LimitReader(tcp, 256<<10))
}
