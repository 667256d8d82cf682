package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// running is a server on a loopback port.
type running struct {
	t    *testing.T
	addr string
	ln   net.Listener
	stop context.CancelFunc
	done chan error
}

func serve(t *testing.T, cfg transport.Config, handle transport.Handler) *running {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, transport.New(cfg), ln, handle)
}

func start(t *testing.T, s *transport.Server, ln net.Listener, handle transport.Handler) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, addr: ln.Addr().String(), ln: ln, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- s.Serve(ctx, ln, handle) }()
	t.Cleanup(cancel)
	return r
}

// ended stops the server and returns what Serve returned.
func (r *running) ended() error {
	r.t.Helper()
	r.stop()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		r.t.Fatal("Serve does not return")
		return nil
	}
}

func (r *running) dial() net.Conn {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return nc
}

// echo answers until the client or the server has had enough.
func echo(ctx context.Context, nc net.Conn) {
	stop := context.AfterFunc(ctx, func() { nc.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	io.Copy(nc, nc)
}

// answers reports whether an echo server serves nc, as against having closed it.
func answers(nc net.Conn) bool {
	nc.Write([]byte("x"))
	_, err := nc.Read(make([]byte, 1))
	return err == nil
}

// eventually polls until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestServeAndStop(t *testing.T) {
	r := serve(t, transport.Config{}, echo)
	a, b := r.dial(), r.dial()
	if !answers(a) || !answers(b) || !answers(a) {
		t.Fatal("not served")
	}
	if err := r.ended(); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
	// Dialing the port would prove nothing: another program may have it by now.
	if _, err := r.ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the port is still open: %v", err)
	}
}

func TestMaxConns(t *testing.T) {
	reg := prometheus.NewRegistry()
	r := serve(t, transport.Config{MaxConns: 2, Metrics: reg}, echo)
	a, b := r.dial(), r.dial()
	if !answers(a) || !answers(b) {
		t.Fatal("not served")
	}
	if answers(r.dial()) {
		t.Error("a third connection is served")
	}
	if !answers(a) {
		t.Error("the first connection suffers")
	}
	for name, want := range map[string]float64{"parley_connections_open": 2, "parley_connections_refused_total": 1, "parley_connections_accepted_total": 2} {
		if got := metric(t, reg, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	a.Close()
	eventually(t, "room for another one", func() bool { return answers(r.dial()) })
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}

// metric returns the value of a gauge or counter.
func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestMaxConnsPerIP(t *testing.T) {
	r := serve(t, transport.Config{MaxConnsPerIP: 1}, echo)
	from := func(ip string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		nc, err := d.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(patience))
		return nc
	}
	a := from("127.0.0.1")
	if !answers(a) || !answers(from("127.0.0.2")) {
		t.Fatal("not served")
	}
	if answers(from("127.0.0.1")) || answers(from("127.0.0.2")) {
		t.Error("a second connection from the same address is served")
	}
	a.Close()
	eventually(t, "room for another one", func() bool { return answers(from("127.0.0.1")) })
}

func TestPanicIsContained(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))
	r := serve(t, transport.Config{Logger: logger, MaxConns: 1}, func(ctx context.Context, nc net.Conn) {
		b := make([]byte, 1)
		nc.Read(b)
		if b[0] == '!' {
			panic("planted")
		}
		nc.Write(b)
	})
	bad := r.dial()
	bad.Write([]byte("!"))
	if _, err := bad.Read(make([]byte, 1)); err == nil {
		t.Error("the connection survives")
	}
	eventually(t, "another connection is served", func() bool { return answers(r.dial()) })
	if err := r.ended(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if s := log.String(); !strings.Contains(s, "planted") || !strings.Contains(s, "transport_test.go") {
		t.Errorf("the log does not tell of it: %s", s)
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// TestDrain: handlers may finish what they do, but not for ever.
func TestDrain(t *testing.T) {
	t.Run("in peace", func(t *testing.T) {
		r := serve(t, transport.Config{}, func(ctx context.Context, nc net.Conn) {
			nc.Write([]byte("1"))
			<-ctx.Done()
			nc.Write([]byte("2"))
		})
		nc := r.dial()
		nc.Read(make([]byte, 1))
		if err := r.ended(); err != nil {
			t.Error(err)
		}
		if rest, err := io.ReadAll(nc); err != nil || string(rest) != "2" {
			t.Errorf("read %q, %v", rest, err)
		}
	})
	t.Run("by force", func(t *testing.T) {
		r := serve(t, transport.Config{DrainTimeout: 50 * time.Millisecond}, func(ctx context.Context, nc net.Conn) {
			io.Copy(io.Discard, nc) // does not look at ctx
		})
		nc := r.dial()
		nc.Write([]byte("x"))
		begin := time.Now()
		if err := r.ended(); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d < 50*time.Millisecond || d > patience/2 {
			t.Errorf("took %v", d)
		}
	})
}

// flaky fails now and then, as accept does when descriptors run out.
type flaky struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

func (f *flaky) Accept() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return nil, err
	}
	return f.Listener.Accept()
}

func TestAcceptErrors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	some := errors.New("too many open files")
	r := start(t, transport.New(transport.Config{}), &flaky{Listener: ln, errs: []error{some, some, some}}, echo)
	if !answers(r.dial()) {
		t.Error("not served after errors that pass")
	}
	ln.Close() // for good
	select {
	case err := <-r.done:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(patience):
		t.Error("Serve goes on without a listener")
	}
}
