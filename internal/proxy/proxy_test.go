package proxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley/internal/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 30 * time.Second
	short    = 200 * time.Millisecond // for what must not happen
)

// pair is a connection through a proxy: what the client and what the server have of
// it.
type pair struct {
	client, server net.Conn
	ln             net.Listener // the server's
}

func newPair(t *testing.T) (*proxy.Proxy, pair) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := proxy.New(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(); ln.Close() })
	client, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	say(t, client, "hello") // both ends are there
	if got, err := hear(server, 5, patience); err != nil || got != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	return p, pair{client, server, ln}
}

func say(t *testing.T, conn net.Conn, word string) {
	t.Helper()
	if _, err := io.WriteString(conn, word); err != nil {
		t.Fatal(err)
	}
}

func hear(conn net.Conn, n int, wait time.Duration) (string, error) {
	buf := make([]byte, n)
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	n, err := io.ReadFull(conn, buf)
	return string(buf[:n]), err
}

// wantReset reads until there is an error, which must be a reset.
func wantReset(t *testing.T, conn net.Conn) (got string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	return string(b)
}

// dialReset connects, and wants nothing but a reset.
func dialReset(t *testing.T, p *proxy.Proxy) {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if errors.Is(err, syscall.ECONNRESET) {
		return // that was quick
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantReset(t, conn)
}

func TestDelay(t *testing.T) {
	p, c := newPair(t)
	p.Set(proxy.Fault{Delay: short})
	for _, way := range []pair{c, {client: c.server, server: c.client}} {
		began := time.Now()
		say(t, way.client, "word")
		if got, err := hear(way.server, 4, patience); err != nil || got != "word" {
			t.Fatalf("%q, %v", got, err)
		}
		if took := time.Since(began); took < short {
			t.Errorf("took %v", took)
		}
	}
}

// Held in one direction, a connection goes on in the other; nothing is lost when
// that is over.
func TestHold(t *testing.T) {
	for _, f := range []proxy.Fault{{HoldRequests: true}, {HoldAnswers: true}} {
		p, c := newPair(t)
		from, to := c.client, c.server
		if f.HoldAnswers {
			from, to = to, from
		}
		p.Set(f)
		say(t, from, "held")
		say(t, to, "free")
		if got, err := hear(from, 4, patience); err != nil || got != "free" {
			t.Errorf("%+v: %q, %v", f, got, err)
		}
		if got, err := hear(to, 4, short); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%+v: %q, %v", f, got, err)
		}
		p.Set(proxy.Fault{})
		if got, err := hear(to, 4, patience); err != nil || got != "held" {
			t.Errorf("%+v: %q, %v", f, got, err)
		}
	}
}

// A sender of which nothing is forwarded cannot go on for ever.
func TestHoldIsBounded(t *testing.T) {
	p, c := newPair(t)
	p.Set(proxy.Fault{HoldRequests: true})
	if err := c.client.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.client.Write(make([]byte, 64<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes were taken, %v", n, err)
	}
}

// A stalled connection says nothing any more; a new one works.
func TestStall(t *testing.T) {
	p, c := newPair(t)
	if n := p.Stall(false, true); n != 1 {
		t.Errorf("%d connections", n)
	}
	say(t, c.client, "word")
	if got, err := hear(c.server, 4, patience); err != nil || got != "word" {
		t.Errorf("%q, %v", got, err)
	}
	say(t, c.server, "answer")
	p.Set(proxy.Fault{})
	if got, err := hear(c.client, 6, short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v", got, err)
	}
	again, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	server, err := c.ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	say(t, server, "answer")
	if got, err := hear(again, 6, patience); err != nil || got != "answer" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestReset(t *testing.T) {
	p, c := newPair(t)
	p.Set(proxy.Fault{HoldAnswers: true})
	say(t, c.server, "answer")
	if got, err := hear(c.client, 6, short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v", got, err)
	}
	if n := p.Reset(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if got := wantReset(t, c.client); got != "" {
		t.Errorf("the client has %q", got)
	}
	wantReset(t, c.server)
}

// A torn connection has brought a part of what was sent last.
func TestTear(t *testing.T) {
	p, c := newPair(t)
	if n := p.Tear(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if _, err := hear(c.server, 1, short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("before anything is sent: %v", err)
	}
	const frame = "a frame that does not arrive as a whole"
	say(t, c.client, frame)
	if got := wantReset(t, c.server); len(got) >= len(frame) || got != frame[:len(got)] {
		t.Errorf("got %q", got)
	}
	wantReset(t, c.client)
}

func TestRefuse(t *testing.T) {
	p, c := newPair(t)
	p.Set(proxy.Fault{Refuse: true})
	dialReset(t, p)
	say(t, c.client, "word")
	if got, err := hear(c.server, 4, patience); err != nil || got != "word" {
		t.Errorf("%q, %v", got, err)
	}
}

// Everything arrives, in order, and an orderly end stays one.
func TestOrderlyEnd(t *testing.T) {
	p, c := newPair(t)
	p.Set(proxy.Fault{Delay: time.Millisecond})
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		c.client.Write(sent)
		c.client.(*net.TCPConn).CloseWrite()
	}()
	if err := c.server.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c.server); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes, %v", len(got), len(sent), err)
	}
	say(t, c.server, "bye")
	if got, err := hear(c.client, 3, patience); err != nil || got != "bye" {
		t.Errorf("%q, %v", got, err)
	}
}

// The server is gone: so are the connections to it.
func TestNobodyThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	p, err := proxy.New(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dialReset(t, p)
}
