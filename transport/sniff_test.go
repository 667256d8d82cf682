package transport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/certs"
	"github.com/parley-chat/parley/transport"
)

// preface is what HTTP/2 clients send first, all of it.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// naming returns a Sniff whose handlers answer with a letter for who they are,
// whether they have been given the connection itself, and then what they read.
func naming(timeout time.Duration) *transport.Sniff {
	name := func(letter string) transport.Handler {
		return func(ctx context.Context, nc net.Conn) {
			how := "wrapped "
			if _, ok := nc.(*net.TCPConn); ok {
				how = "itself "
			}
			io.WriteString(nc, letter+" "+how)
			echo(ctx, nc)
		}
	}
	return &transport.Sniff{HTTP2: name("h2"), Others: name("wire"), Timeout: timeout}
}

// exchange writes pieces, waiting for each to be taken, and returns everything
// that comes back.
func exchange(t *testing.T, nc net.Conn, pieces ...string) string {
	t.Helper()
	for i, p := range pieces {
		if _, err := io.WriteString(nc, p); err != nil {
			t.Fatal(err)
		}
		if i < len(pieces)-1 {
			time.Sleep(2 * time.Millisecond) // so that they mostly come one by one; the outcome is the same
		}
	}
	if err := nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var sniffed = []struct {
	name   string
	pieces []string
	who    string
}{
	{"preface", []string{preface + "rest"}, "h2"},
	{"preface byte by byte", strings.Split(preface+"rest", ""), "h2"},
	{"no more than it takes", []string{"PRI * HTTP/2.0"}, "h2"},
	{"classic", []string{"create\x00\x00\x00\x00\x00\x00\x00\x00\x00ann"}, "wire"},
	{"one byte", []string{"c"}, "wire"},
	{"NUL", []string{"\x00", "x"}, "wire"},
	{"a command that begins alike", []string{"P", "RI", "VMSG\x00\x00\x00\x00\x00\x00\x00\x00"}, "wire"},
	{"other HTTP", []string{"PRI * HTTP/", "3.0\r\n"}, "wire"},
}

func TestSniff(t *testing.T) {
	r := serve(t, transport.Config{}, naming(patience).Handle)
	for _, c := range sniffed {
		t.Run(c.name, func(t *testing.T) {
			want := c.who + " itself " + strings.Join(c.pieces, "")
			if got := exchange(t, r.dial(), c.pieces...); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}

// overTLS serves over TLS, and returns with what clients trust it.
func overTLS(t *testing.T, sniff *transport.Sniff) (*running, *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	if err := certs.Init(dir); err != nil {
		t.Fatal(err)
	}
	if err := certs.Issue(dir, "n1", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	files, err := certs.Load(dir, "n1")
	if err != nil {
		t.Fatal(err)
	}
	source, err := certs.NewSource(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := source.Server()
	server.NextProtos = []string{"h2"}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := certs.ClientConfig(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	client.ServerName = "127.0.0.1"
	return start(t, transport.New(transport.Config{}), tls.NewListener(ln, server), sniff.Handle), client
}

// TestSniffTLS: with TLS the protocol is agreed upon in the handshake, or told by
// the first bytes behind it.
func TestSniffTLS(t *testing.T) {
	r, client := overTLS(t, naming(patience))
	for _, c := range sniffed {
		t.Run(c.name, func(t *testing.T) {
			want := c.who + " wrapped " + strings.Join(c.pieces, "")
			if got := exchange(t, tls.Client(r.dial(), client), c.pieces...); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	agreed := client.Clone()
	agreed.NextProtos = []string{"h2"}
	if got := exchange(t, tls.Client(r.dial(), agreed), "anything"); got != "h2 wrapped anything" {
		t.Errorf("with h2 agreed upon: got %q", got)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}

// TestSniffHandshakes: one handshake too many is not begun, and its connection closed.
func TestSniffHandshakes(t *testing.T) {
	sniff := naming(patience)
	sniff.Handshakes = transport.NewHandshakes(transport.HandshakesConfig{PerIP: 1})
	r, client := overTLS(t, sniff)
	refused := false
	for i := range 1000 { // five at once, and on a slow machine a few more
		err := tls.Client(r.dial(), client).HandshakeContext(t.Context())
		if i < 5 && err != nil {
			t.Fatalf("number %d: %v", i, err)
		}
		if refused = err != nil; refused {
			break
		}
	}
	if !refused {
		t.Error("there is no limit")
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}

// TestSniffPatience: a client may be silent for as long as it likes, but what it
// has begun it must finish.
func TestSniffPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := naming(time.Second)
		for _, c := range []struct{ silence, pause time.Duration }{{24 * time.Hour, 0}, {time.Minute, 900 * time.Millisecond}, {0, 1100 * time.Millisecond}} {
			here, there := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.Handle(t.Context(), there)
				there.Close()
			}()
			time.Sleep(c.silence)
			io.WriteString(here, "PR")
			time.Sleep(c.pause)
			got := make(chan string, 1)
			go func() {
				b := make([]byte, 64)
				n, _ := here.Read(b)
				got <- string(b[:n])
			}()
			io.WriteString(here, "IVMSG")
			want := "wire wrapped "
			if c.pause > time.Second {
				want = ""
			}
			if g := <-got; g != want {
				t.Errorf("after %v and %v: got %q, want %q", c.silence, c.pause, g, want)
			}
			here.Close()
			<-done
		}
	})
}

// TestSniffPatienceTCP: the same where the bytes are peeked at.
func TestSniffPatienceTCP(t *testing.T) {
	r := serve(t, transport.Config{}, naming(20*time.Millisecond).Handle)
	silent, begun, gone := r.dial(), r.dial(), r.dial()
	io.WriteString(begun, "PRI * HT")
	io.WriteString(gone, "PRI")
	gone.(*net.TCPConn).CloseWrite()
	for name, nc := range map[string]net.Conn{"begun": begun, "gone": gone} {
		if b, err := io.ReadAll(nc); len(b) > 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %q, %v, want the connection closed", name, b, err)
		}
	}
	if got := exchange(t, silent, "list"); got != "wire itself list" {
		t.Errorf("the silent one: got %q", got)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}

// TestSniffDrain: connections on which nothing has been said yet end at once.
func TestSniffDrain(t *testing.T) {
	r := serve(t, transport.Config{DrainTimeout: time.Hour}, naming(time.Hour).Handle)
	silent, begun, served := r.dial(), r.dial(), r.dial()
	io.WriteString(begun, "PRI")
	io.WriteString(served, "x")
	if _, err := io.ReadFull(served, make([]byte, len("wire itself x"))); err != nil {
		t.Fatal(err)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
	for name, nc := range map[string]net.Conn{"silent": silent, "begun": begun, "served": served} {
		if b, err := io.ReadAll(nc); len(b) > 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %q, %v, want the connection closed", name, b, err)
		}
	}
}

// TestSniffEndsWhileReading: the context ends while the first bytes come, and the
// time for the rest of them is set after that.
func TestSniffEndsWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		here, there := net.Pipe()
		defer here.Close()
		begun := time.Now()
		go io.WriteString(here, "PRI")
		naming(time.Hour).Handle(ctx, &ending{Conn: there, end: cancel})
		if took := time.Since(begun); took != 0 {
			t.Errorf("it ended only after %v", took)
		}
	})
}

// ending is a connection whose reads return when end has been called and has had
// its effects.
type ending struct {
	net.Conn
	end func()
}

func (e *ending) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	e.end()
	synctest.Wait()
	return n, err
}

// FuzzSniff: whatever comes, in whatever pieces, reaches one handler, whole.
func FuzzSniff(f *testing.F) {
	for _, c := range sniffed {
		f.Add([]byte(strings.Join(c.pieces, "")), uint8(len(c.pieces[0])))
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint8) {
		var got []byte
		who := ""
		read := func(name string) transport.Handler {
			return func(_ context.Context, nc net.Conn) {
				who = name
				got, _ = io.ReadAll(nc)
			}
		}
		s := &transport.Sniff{HTTP2: read("h2"), Others: read("wire"), Timeout: time.Second}
		s.Handle(t.Context(), &pieces{rest: b, size: int(piece)%16 + 1})
		const begin = "PRI * HTTP/2.0"
		want := "wire"
		switch {
		case bytes.HasPrefix(b, []byte(begin)):
			want = "h2"
		case strings.HasPrefix(begin, string(b)):
			want = ""
		}
		if who != want || want != "" && !bytes.Equal(got, b) {
			t.Errorf("%q in pieces of %d: %q got %q, want %q", b, piece, who, got, want)
		}
	})
}

// pieces is a connection on which bytes come in pieces of a size.
type pieces struct {
	net.Conn
	mu   sync.Mutex
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.size, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pieces) SetReadDeadline(time.Time) error { return nil }
