package tcp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport"
	"github.com/parley-chat/parley/transport/tcp"
	"github.com/parley-chat/parley/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// world is a gateway on a loopback port in front of a fake cluster.
type world struct {
	*testing.T
	fake *parleytest.Fake
	addr string
	stop func() // drains the gateway and waits for it
}

func newWorld(t *testing.T, cfg tcp.Config) *world {
	t.Helper()
	fake := parleytest.NewFake()
	t.Cleanup(fake.Close)
	if cfg.Service == nil {
		cfg.Service = fake
	}
	cfg.NodeID = "n1"
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, fake, ln, cfg)
}

func serveOn(t *testing.T, fake *parleytest.Fake, ln net.Listener, cfg tcp.Config) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- transport.New(transport.Config{SocketBuffer: 128 << 10}).Serve(ctx, ln, tcp.New(cfg).Handle)
	}()
	w := &world{T: t, fake: fake, addr: ln.Addr().String()}
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("the gateway does not stop")
		}
	}
	t.Cleanup(w.stop)
	return w
}

// run runs a command at the service itself.
func (w *world) run(c parley.Command) {
	w.Helper()
	r, err := parley.Do(w.Context(), w.fake, parley.Request{Command: c})
	if err = errors.Join(err, r.Err()); err != nil {
		w.Fatalf("%#v: %v", c, err)
	}
}

// unread returns the texts that user has not read.
func (w *world) unread(user string) []string {
	w.Helper()
	var texts []string
	q := parley.Inbox{User: user}
	for {
		r, err := w.fake.Get(w.Context(), q)
		if err = errors.Join(err, r.Err()); err != nil {
			w.Fatal(err)
		}
		for _, m := range r.Messages {
			texts = append(texts, m.Body)
			q.After = m.Cursor
		}
		if !r.More {
			return texts
		}
	}
}

func (w *world) wantUnread(user string, want ...string) {
	w.Helper()
	if got := w.unread(user); !slices.Equal(got, want) {
		w.Errorf("unread mail of %s: %q, want %q", user, got, want)
	}
}

// eventually polls until ok is true.
func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("never: %s", what)
		}
	}
}

// allRead waits until user has no unread mail.
func (w *world) allRead(user string) {
	w.Helper()
	w.eventually("all mail of "+user+" is read", func() bool { return len(w.unread(user)) == 0 })
}

// client is a classic client that knows nothing of Parley: it sends 15 bytes of
// command and its arguments, and reads 1,024 bytes for each answer.
type client struct {
	w  *world
	nc net.Conn
}

func (w *world) dial() *client {
	w.Helper()
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.Fatal(err)
	}
	return w.client(nc)
}

func (w *world) client(nc net.Conn) *client {
	w.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &client{w, nc}
}

// header is the 15 bytes of a command.
func header(command string) string {
	return command + strings.Repeat("\x00", 15-len(command))
}

// padded is a whole frame, as clients send it that fill their buffer.
func padded(command, args string) string {
	f := header(command) + args
	return f + strings.Repeat("\x00", 1024-len(f))
}

func (c *client) write(bytes string) {
	c.w.Helper()
	if _, err := io.WriteString(c.nc, bytes); err != nil {
		c.w.Fatalf("writing: %v", err)
	}
}

// say sends an unpadded frame.
func (c *client) say(command, args string) {
	c.w.Helper()
	c.write(header(command) + args)
}

// hear reads a frame and returns it as "command args".
func (c *client) hear() string {
	c.w.Helper()
	b := make([]byte, 1024)
	if _, err := io.ReadFull(c.nc, b); err != nil {
		c.w.Fatalf("reading: %v", err)
	}
	f, err := wire.ParseClassic(b)
	if err != nil {
		c.w.Fatalf("received %q: %v", b, err)
	}
	if rest := b[15+len(f.Args):]; strings.Trim(string(rest), "\x00") != "" {
		c.w.Fatalf("behind the text: %q", rest)
	}
	return strings.TrimSuffix(f.Command+" "+f.Args, " ")
}

// expect reads frames and checks them.
func (c *client) expect(want ...string) {
	c.w.Helper()
	for i, want := range want {
		if got := c.hear(); got != want {
			c.w.Fatalf("frame %d of the answer: %.100q, want %.100q", i, got, want)
		}
	}
}

// ask sends a command and checks the answer.
func (c *client) ask(command, args string, want ...string) {
	c.w.Helper()
	c.say(command, args)
	c.expect(want...)
}

// silent checks that nothing has come: a command is answered next.
func (c *client) silent() {
	c.w.Helper()
	c.ask("list", "^no such user$", "list")
}

// gone waits until the server has closed the connection and returns what it had sent.
func (c *client) gone() string {
	c.w.Helper()
	rest, err := io.ReadAll(c.nc)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.w.Fatal("the connection stays open")
	}
	return string(rest)
}
