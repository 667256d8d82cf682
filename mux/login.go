package mux

import (
	"context"
	"net"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// loginTime is how long a login may take, its waiting because of others included.
const loginTime = 10 * time.Second

// login handles a login: what is read behind it is for the service that it gives.
// Nothing is read meanwhile.
func (s *serverConn) login(ctx context.Context, id uint64, c parley.Credentials) error {
	if s.cfg.Login == nil {
		return s.refuse(id, parley.Errorf(parley.CodeUnsupported, "no logins on this connection"))
	}
	took, err := s.admit(smallRoom)
	if err != nil {
		return err
	}
	c.Address = host(s.nc)
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	svc, who, err := s.cfg.Login(ctx, c)
	r := parley.Result{Incarnation: who.Incarnation}
	switch code := parley.CodeOf(err); {
	case err == nil && !s.cfg.Seats.Move(s.user, who.Incarnation):
		err = parley.Errorf(parley.CodeOverloaded, "%.80q has as many connections with this node as a user may have: limit %d", who.User, s.cfg.Seats.Most())
	case err == nil:
		s.svc, s.user = svc, who.Incarnation
	case code.IsAnswer():
		r, err = parley.Refusal(err), nil
	}
	s.answer(id, &r, err, took)
	return nil
}

// host is the other end's address without port.
func host(nc net.Conn) string {
	addr := nc.RemoteAddr().String()
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

// Login tells the server in whose name what follows is asked, and waits for the
// answer or the end of ctx.
func (c *Conn) Login(ctx context.Context, who parley.Credentials) (parley.Result, error) {
	return c.ask(ctx, &wire.Frame{Kind: wire.KindLogin, Login: who})
}
