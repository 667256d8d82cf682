package tcp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/mux"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport/tcp"
	"github.com/parley-chat/parley/wire"
)

// hello opens the framed protocol and returns the answer.
func (c *client) hello(mode wire.Mode) (wire.Welcome, error) {
	c.w.Helper()
	c.write(string(wire.AppendHello(nil, wire.Hello{Mode: mode})))
	return wire.ReadWelcome(c.nc)
}

// framed makes a framed connection.
func (w *world) framed(nc net.Conn, mode wire.Mode, cfg mux.ConnConfig) *mux.Conn {
	w.Helper()
	c := w.client(nc)
	welcome, err := c.hello(mode)
	if err != nil {
		w.Fatalf("hello: %v", err)
	}
	if welcome.Node != "n1" || welcome.MaxFrame != wire.DefaultMaxFrame || welcome.Idle != 90*time.Second {
		w.Errorf("welcome: %+v", welcome)
	}
	nc.SetDeadline(time.Time{})
	conn := mux.NewConn(nc, bufio.NewReader(nc), cfg)
	w.Cleanup(func() { conn.Close() })
	return conn
}

// remote is the service at the other end of a framed connection.
type remote struct{ *mux.Conn }

func (r remote) Start(_ context.Context, req parley.Request, done func(parley.Result, error)) {
	r.Do(req, done)
}

func TestFramedConformance(t *testing.T) {
	parleytest.Run(t, func(t *testing.T) parley.Service {
		w := newWorld(t, tcp.Config{})
		return remote{w.framed(w.dial().nc, wire.ModeLeader, mux.ConnConfig{})}
	})
}

// leadership is what a node knows about who leads.
type leadership struct {
	mu      sync.Mutex
	leader  mux.Leader
	changed chan struct{}
}

func (l *leadership) get() (mux.Leader, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leader, l.changed
}

func (l *leadership) set(leader mux.Leader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leader = leader
	if l.changed != nil {
		close(l.changed)
	}
	l.changed = make(chan struct{})
}

func TestHello(t *testing.T) {
	var l leadership
	w := newWorld(t, tcp.Config{Leadership: l.get})

	l.set(mux.Leader{ID: "n2", Client: "host:3001"})
	c := w.dial()
	var redirect *wire.Redirect
	if _, err := c.hello(wire.ModeLeader); !errors.As(err, &redirect) || *redirect != (wire.Redirect{Node: "n2", Addr: "host:3001"}) {
		t.Errorf("on a follower: %v", err)
	}
	if rest := c.gone(); rest != "" {
		t.Errorf("behind the redirect: %q", rest)
	}
	if welcome, err := w.dial().hello(wire.ModeAny); err != nil || welcome.Node != "n1" {
		t.Errorf("on a follower, asking to be kept: %+v, %v", welcome, err)
	}

	l.set(mux.Leader{})
	c = w.dial()
	if _, err := c.hello(wire.ModeLeader); parley.CodeOf(err) != parley.CodeNoQuorum {
		t.Errorf("without a leader: %v", err)
	}
	c.gone()
	if _, err := w.dial().hello(wire.ModeAny); err != nil {
		t.Errorf("without a leader, asking to be kept: %v", err)
	}

	l.set(mux.Leader{ID: "n1", Self: true})
	if _, err := w.dial().hello(wire.ModeLeader); err != nil {
		t.Errorf("on the leader: %v", err)
	}
}

// TestRedirectIsRead: the answer arrives although the client has sent more.
func TestRedirectIsRead(t *testing.T) {
	var l leadership
	l.set(mux.Leader{ID: "n2"})
	w := newWorld(t, tcp.Config{Leadership: l.get})
	for range 20 {
		c := w.dial()
		c.write(string(wire.AppendHello(nil, wire.Hello{Mode: wire.ModeLeader})) + strings.Repeat("more", 10_000))
		var redirect *wire.Redirect
		if _, err := wire.ReadWelcome(c.nc); !errors.As(err, &redirect) {
			t.Fatalf("got %v", err)
		}
		if _, err := io.Copy(io.Discard, c.nc); err != nil {
			t.Fatalf("behind the redirect: %v", err)
		}
		c.nc.Close()
	}
}

func TestHelloRefused(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	for args, want := range map[string]parley.Code{
		"":             parley.CodeBadRequest,
		"1":            parley.CodeBadRequest,
		"x,any":        parley.CodeBadRequest,
		"2,any":        parley.CodeUnsupported,
		"1,somewhere":  parley.CodeUnsupported,
		"1,any,please": parley.CodeUnsupported,
	} {
		c := w.dial()
		c.write(padded("hello", args))
		if _, err := wire.ReadWelcome(c.nc); parley.CodeOf(err) != want {
			t.Errorf("hello %q: %v, want %v", args, err, want)
		}
		if rest := c.gone(); rest != "" {
			t.Errorf("hello %q: then %q", args, rest)
		}
	}
	c := w.dial() // classic it is, and classic it stays
	c.write(padded("list", "") + padded("hello", "1,any") + padded("list", ""))
	c.expect("list", "notok", "list")
}

// TestLeadershipMoves: a client that wants the leader is told who it is now, one
// that asked to be kept is not.
func TestLeadershipMoves(t *testing.T) {
	var l leadership
	l.set(mux.Leader{ID: "n1", Self: true})
	w := newWorld(t, tcp.Config{Leadership: l.get})
	told, kept := make(chan string, 1), make(chan string, 1)
	w.framed(w.dial().nc, wire.ModeLeader, mux.ConnConfig{OnRedirect: func(node, addr string) { told <- node + " " + addr }})
	other := w.framed(w.dial().nc, wire.ModeAny, mux.ConnConfig{OnRedirect: func(node, addr string) { kept <- node }})
	l.set(mux.Leader{ID: "n3", Client: "h:1"})
	select {
	case got := <-told:
		if got != "n3 h:1" {
			t.Errorf("told of %q", got)
		}
	case <-time.After(patience):
		t.Fatal("not told")
	}
	if _, err := other.Get(t.Context(), parley.Status{}); err != nil {
		t.Error(err)
	}
	select {
	case got := <-kept:
		t.Errorf("sent to %q", got)
	default:
	}
}

// TestFramedGarbage: garbage, a length beyond the limit, silence and half a frame
// end the connection.
func TestFramedGarbage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tcp.Config{IdleTimeout: time.Second})
	for name, bytes := range map[string]string{
		"4 GiB":   string(binary.BigEndian.AppendUint32(nil, 1<<32-1)) + "x",
		"garbage": strings.Repeat("\x00\x00\x00\x05garbage", 10),
		"silence": "",
		"partial": "\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{T: t, addr: w.addr}
			c := w.dial()
			if _, err := c.hello(wire.ModeAny); err != nil {
				t.Fatal(err)
			}
			c.write(bytes)
			c.gone()
		})
	}
}

func TestFramedDrain(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	conn := w.framed(w.dial().nc, wire.ModeAny, mux.ConnConfig{})
	w.stop()
	select {
	case <-conn.Done():
		if code := parley.CodeOf(conn.Err()); code != parley.CodeShuttingDown {
			t.Errorf("ended by %v", conn.Err())
		}
	case <-time.After(patience):
		t.Error("the connection goes on")
	}
}

// TestTLS: both protocols run inside TLS, and classic mail is read there too.
func TestTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(nil) // for its certificate
	defer s.Close()
	fake := parleytest.NewFake()
	t.Cleanup(fake.Close)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln = tls.NewListener(ln, &tls.Config{Certificates: s.TLS.Certificates})
	w := serveOn(t, fake, ln, tcp.Config{Service: fake, NodeID: "n1", HandshakeTimeout: time.Second})
	dial := func() net.Conn {
		cfg := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		cfg.ServerName = "example.com"
		nc, err := tls.Dial("tcp", w.addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	c := w.client(dial())
	c.ask("create", "u", "ok")
	const n = 300
	for i := range n {
		w.run(parley.Send{To: "u", Body: fmt.Sprint(i)})
	}
	c.say("connect", "u")
	for i := range n {
		c.expect(fmt.Sprintf("string %d", i))
	}
	c.expect("ok")
	w.allRead("u")
	w.run(parley.Send{To: "u", Body: "live"})
	c.expect("string live")
	w.allRead("u")

	conn := w.framed(dial(), wire.ModeAny, mux.ConnConfig{})
	if r, err := conn.Get(t.Context(), parley.Users{}); err != nil || len(r.Names) != 1 {
		t.Errorf("framed: %+v, %v", r, err)
	}

	begin := time.Now()
	plain := w.dial() // no handshake
	plain.gone()
	if d := time.Since(begin); d < time.Second {
		t.Errorf("closed after %v", d)
	}
	w.dial().write(header("list")) // not TLS: nothing to answer, nothing to crash
}
