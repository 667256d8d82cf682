package peer

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/certs"
	"github.com/parley-chat/parley/parleytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// within returns what comes from ch.
func within[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("never: %s", what)
		panic("unreachable")
	}
}

// authority makes a directory with an authority and certificates for names.
func authority(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, certs.Init(dir))
	for _, name := range names {
		must(t, certs.Issue(dir, name))
	}
	return dir
}

// logs is where a network under test logs to.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// lines returns the lines that contain part.
func (l *logs) lines(part string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return found
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// listen opens the network of a node on a free port of this machine.
func listen(t testing.TB, dir, name string, edit ...func(*Config)) (*Network, *logs) {
	t.Helper()
	log := &logs{}
	cfg := Config{Name: name, Listen: "127.0.0.1:0", Certs: certs.Paths(dir, name), Logger: log.logger()}
	for _, e := range edit {
		e(&cfg)
	}
	n, err := Listen(cfg)
	must(t, err)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("%s: Close: %v", name, err)
		}
		if t.Failed() {
			t.Logf("%s logged:\n%s", name, log.buf.String())
		}
	})
	return n, log
}

// at makes a node listen where a former one did.
func at(addr net.Addr) func(*Config) {
	return func(c *Config) { c.Listen = addr.String() }
}

// introduced tells the networks each other's addresses.
func introduced(ns ...*Network) {
	for _, a := range ns {
		for _, b := range ns {
			a.Learn(b.cfg.Name, b.Addr().String())
		}
	}
}

// fake is a handler over a fake cluster that answers each call with its caller and body.
func fake() Handler {
	return Handler{
		Service: parleytest.NewFake(),
		Call: func(_ context.Context, from, method string, body []byte) ([]byte, error) {
			if method == "fail" {
				return nil, parley.Errorf(parley.CodeOverloaded, "as asked")
			}
			return append([]byte(from+" "+method+" "), body...), nil
		},
	}
}

// connected waits until a has a forwarding connection to b.
func connected(t testing.TB, a *Network, b string) {
	t.Helper()
	eventually(t, a.cfg.Name+" is connected to "+b, func() bool {
		_, err := a.Peer(b).current()
		return err == nil
	})
}

// answerRaft answers every RPC that arrives at n until the test ends and
// returns how many came.
func answerRaft(t testing.TB, n *Network) (count func() int) {
	var mu sync.Mutex
	seen := 0
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case rpc := <-n.Transport().Consumer():
				mu.Lock()
				seen++
				mu.Unlock()
				rpc.Respond(&raft.RequestVoteResponse{Granted: true, Term: 7}, nil)
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

// vote asks a member for its vote over Raft's transport.
func vote(n *Network, member string) error {
	var resp raft.RequestVoteResponse
	return n.Transport().RequestVote("id", raft.ServerAddress(member), &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte(n.cfg.Name)}, Term: 7,
	}, &resp)
}

// proxy stands between a dialler and target, and keeps what passes.
type proxy struct {
	ln     net.Listener
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex
	bytes  bytes.Buffer
	open   []net.Conn
	frozen chan struct{} // closed while bytes pass
}

func newProxy(t testing.TB, target net.Addr) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{ln: ln, target: target.String(), frozen: make(chan struct{})}
	close(p.frozen)
	p.wg.Go(p.run)
	t.Cleanup(func() {
		ln.Close()
		p.thaw()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) run() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		p.mu.Lock()
		p.open = append(p.open, in, out)
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(out, in) })
		p.wg.Go(func() { p.copy(in, out) })
	}
}

func (p *proxy) copy(dst, src net.Conn) {
	defer dst.Close()
	buf := make([]byte, 32<<10)
	for {
		k, err := src.Read(buf)
		p.mu.Lock()
		p.bytes.Write(buf[:k])
		frozen := p.frozen
		p.mu.Unlock()
		<-frozen
		if _, werr := dst.Write(buf[:k]); err != nil || werr != nil {
			return
		}
	}
}

// freeze holds back everything until thaw.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.frozen:
	default:
		close(p.frozen)
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close()
	}
	p.open = nil
}

func (p *proxy) passed() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.bytes.Bytes())
}

// drainUntilClosed reads what the other end sends until it closes.
func drainUntilClosed(t testing.TB, c net.Conn) []byte {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	data, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatal("the connection was left open")
	}
	return data
}
