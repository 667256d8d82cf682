package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/certs"
	"github.com/parley-chat/parley/parleytest"
)

func TestRaftTransport(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2")
	introduced(n1, n2)
	count := answerRaft(t, n2)
	if got := n1.Transport().LocalAddr(); got != "n1" {
		t.Errorf("LocalAddr %q, want the node's name", got)
	}
	for range 3 { // Raft works although nobody has called Serve
		must(t, vote(n1, "n2"))
	}
	if count() != 3 {
		t.Errorf("%d RPCs arrived, want 3", count())
	}
	if err := vote(n1, "n9"); err == nil || !strings.Contains(err.Error(), "no address known") {
		t.Errorf("to an unknown member: %v", err)
	}
}

func TestForwarding(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2")
	introduced(n1, n2)
	n2.Serve(fake())
	ctx := t.Context()

	body, err := n1.Peer("n2").Call(ctx, "identify", []byte("who"))
	if string(body) != "n1 identify who" || err != nil {
		t.Errorf("Call: %q, %v", body, err)
	}
	if _, err := n1.Peer("n2").Call(ctx, "fail", nil); !errors.Is(err, &parley.Error{Code: parley.CodeOverloaded}) {
		t.Errorf("Call: %v, want the handler's error", err)
	}
	r, err := parley.Do(ctx, starter{n1.Peer("n2")}, parley.Request{Command: parley.CreateUser{Name: "u"}})
	if r.Code != parley.CodeOK || err != nil {
		t.Errorf("Start: %v, %v", r, err)
	}
	r, err = parley.Do(ctx, starter{n1.Peer("n2")}, parley.Request{Command: parley.CreateUser{Name: "u"}})
	if r.Code != parley.CodeNameTaken || err != nil {
		t.Errorf("Start: %v, %v", r, err)
	}
}

// starter makes a Service of a Peer, for parley.Do.
type starter struct{ *Peer }

func (starter) Get(context.Context, parley.Query) (parley.Result, error) { panic("not asked") }

func (starter) Watch(context.Context, string, parley.Cursor) iter.Seq2[parley.Message, error] {
	panic("not asked")
}

// recorder is a Service that notes what is started, and answers only if told to.
type recorder struct {
	starter
	answer bool
	mu     sync.Mutex
	got    []string
}

func (r *recorder) Start(_ context.Context, req parley.Request, done func(parley.Result, error)) {
	r.mu.Lock()
	r.got = append(r.got, req.Command.Key())
	r.mu.Unlock()
	if r.answer {
		done(parley.Result{}, nil)
	}
}

func (r *recorder) started() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func TestStartKeepsOrder(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2")
	introduced(n1, n2)
	rec := &recorder{answer: true}
	n2.Serve(Handler{Service: rec})
	connected(t, n1, "n2")

	const count = 5000
	var want []string
	results := make(chan error, count)
	for i := range count {
		name := fmt.Sprint("u", i)
		want = append(want, name)
		n1.Peer("n2").Start(t.Context(), parley.Request{Command: parley.CreateUser{Name: name}},
			func(_ parley.Result, err error) { results <- err })
	}
	for range count {
		must(t, within(t, "an answer", results))
	}
	if !slices.Equal(rec.started(), want) {
		t.Error("commands arrived in another order")
	}
}

// soon makes a node wait little for commands that a recorder never answers.
func soon(c *Config) { c.WriteTimeout = 200 * time.Millisecond }

// start starts a command and returns its outcome.
func start(p *Peer, name string) <-chan error {
	ch := make(chan error, 1)
	p.Start(context.Background(), parley.Request{Command: parley.CreateUser{Name: name}},
		func(_ parley.Result, err error) { ch <- err })
	return ch
}

func TestStartWithoutConnection(t *testing.T) {
	dir := authority(t, "n1")
	n1, _ := listen(t, dir, "n1", func(c *Config) { c.Addrs = map[string]string{"n2": "127.0.0.1:1"} })
	for _, name := range []string{"n2", "n9"} {
		select {
		case err := <-start(n1.Peer(name), "u"):
			if parley.CodeOf(err) != parley.CodeNotLeader {
				t.Errorf("%s: %v, want %v", name, err, parley.CodeNotLeader)
			}
		default:
			t.Errorf("%s: Start returned without an outcome", name)
		}
		if _, err := n1.Peer(name).Call(t.Context(), "m", nil); parley.CodeOf(err) != parley.CodeNotLeader {
			t.Errorf("%s: Call: %v, want %v", name, err, parley.CodeNotLeader)
		}
	}
}

func TestLostConnectionInterruptsAndIsReplaced(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2", soon)
	p := newProxy(t, n2.Addr())
	n1.Learn("n2", p.addr())
	rec := &recorder{}
	n2.Serve(Handler{Service: rec})
	connected(t, n1, "n2")

	outcome := start(n1.Peer("n2"), "u")
	eventually(t, "the command arrives", func() bool { return len(rec.started()) == 1 })
	p.cut()
	if err := within(t, "an outcome", outcome); parley.CodeOf(err) != parley.CodeInterrupted {
		t.Errorf("%v, want %v", err, parley.CodeInterrupted)
	}
	connected(t, n1, "n2")
	eventually(t, "a command is taken for the new connection", func() bool {
		select {
		case err := <-start(n1.Peer("n2"), "u"):
			if !parley.CodeOf(err).NotApplied() {
				t.Fatalf("%v, although nothing was sent", err)
			}
			return false
		default:
			return true
		}
	})
	eventually(t, "it arrives", func() bool { return len(rec.started()) == 2 })
}

func TestFrozenMemberInterrupts(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1", func(c *Config) { c.PingEvery, c.IdleTimeout = 100*time.Millisecond, 2*time.Second })
	n2, _ := listen(t, dir, "n2", soon)
	p := newProxy(t, n2.Addr())
	n1.Learn("n2", p.addr())
	n2.Serve(Handler{Service: &recorder{}})
	connected(t, n1, "n2")
	conn, _ := n1.Peer("n2").current()
	if _, err := n1.Peer("n2").Call(t.Context(), "m", nil); err == nil {
		t.Error("no error without a handler for calls")
	}
	outcome := start(n1.Peer("n2"), "u") // which the recorder never answers
	p.freeze()
	if err := within(t, "an outcome", outcome); parley.CodeOf(err) != parley.CodeInterrupted {
		t.Errorf("%v, want %v", err, parley.CodeInterrupted)
	}
	p.thaw()
	eventually(t, "another connection", func() bool {
		now, err := n1.Peer("n2").current()
		return err == nil && now != conn
	})
}

func TestBothAddressesAreTried(t *testing.T) {
	dir := authority(t, "n1", "n2", "n3")
	n2, _ := listen(t, dir, "n2")
	n3, _ := listen(t, dir, "n3")
	n2.Serve(fake())
	n3.Serve(fake())
	right := n2.Addr().String()
	for _, wrong := range []string{"127.0.0.1:1", n3.Addr().String(), "no.such.host.invalid:7000"} {
		for _, c := range [][2]string{{wrong, right}, {right, wrong}} {
			n1, _ := listen(t, dir, "n1", func(cfg *Config) {
				cfg.Addrs = map[string]string{"n1": "127.0.0.1:1", "n2": c[0]}
				cfg.DialTimeout = 5 * time.Second
			})
			n1.Learn("n2", c[1])
			connected(t, n1, "n2")
			if got := n1.book.addrs("n2")[0]; got != right {
				t.Errorf("%v: prefers %s, not the address that worked", c, got)
			}
			must(t, n1.Close())
		}
	}
}

func TestNothingInClear(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2")
	p := newProxy(t, n2.Addr())
	n1.Learn("n2", p.addr())
	svc := parleytest.NewFake()
	var calls []byte
	n2.Serve(Handler{Service: svc, Call: func(_ context.Context, _, method string, body []byte) ([]byte, error) {
		calls = fmt.Appendf(calls, "%s %s", method, body)
		return body, nil
	}})
	answerRaft(t, n2)

	const secret = "attack at dawn"
	_, err := n1.Peer("n2").Call(t.Context(), "method-"+secret, []byte(secret))
	must(t, err)
	_, err = parley.Do(t.Context(), starter{n1.Peer("n2")}, parley.Request{Command: parley.Send{To: "u", Body: secret}})
	must(t, err)
	must(t, vote(n1, "n2"))

	if !bytes.Contains(calls, []byte(secret)) {
		t.Fatal("the secret did not arrive")
	}
	seen := p.passed()
	if len(seen) < 2000 {
		t.Fatalf("only %d bytes seen; this test looks at the wrong place", len(seen))
	}
	for _, clear := range []string{secret, magic, "method-", "RPCHeader", "ProtocolVersion", "Parley CA"} {
		if bytes.Contains(seen, []byte(clear)) {
			t.Errorf("%q crosses the network in clear text", clear)
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2")
	introduced(n1, n2)
	n1.Serve(fake())
	n2.Serve(fake())
	answerRaft(t, n2)
	connected(t, n1, "n2")
	connected(t, n2, "n1")
	must(t, vote(n1, "n2"))
	silent, err := net.Dial("tcp", n1.Addr().String())
	must(t, err)
	defer silent.Close()

	began := time.Now()
	must(t, n1.Close())
	must(t, n1.Close())
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("Close took %v", took)
	}
	if n := len(n1.conns) + len(n1.greeting); n != 0 {
		t.Errorf("%d connections left", n)
	}
	drainUntilClosed(t, silent)
	if err := within(t, "an outcome", start(n1.Peer("n2"), "u")); err == nil {
		t.Error("a command was taken after Close")
	}
	if _, err := n1.Peer("n3").Call(t.Context(), "m", nil); err == nil {
		t.Error("a call was made after Close")
	}
	if err := vote(n1, "n2"); err == nil {
		t.Error("Raft was heard after Close")
	}
}

func TestConfigIsChecked(t *testing.T) {
	dir := authority(t, "n1", "n2")
	for want, edit := range map[string]func(*Config){
		"node name":           func(c *Config) { c.Name = "N1" },
		"it is that of n2":    func(c *Config) { c.Certs = certs.Paths(dir, "n2") },
		"no address":          func(c *Config) { c.Listen = "" },
		"all needed":          func(c *Config) { c.Certs.CA = "" },
		"no such file":        func(c *Config) { c.Certs.Key += "x" },
		"member list: n2":     func(c *Config) { c.Addrs = map[string]string{"n2": "nowhere"} },
		"member list: node n": func(c *Config) { c.Addrs = map[string]string{"N 2": "a:1"} },
		"peer port: listen":   func(c *Config) { c.Listen = "127.0.0.1:x" },
	} {
		cfg := Config{Name: "n1", Listen: "127.0.0.1:0", Certs: certs.Paths(dir, "n1")}
		edit(&cfg)
		n, err := Listen(cfg)
		if err == nil {
			n.Close()
			t.Errorf("%s: no error", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q in it", err, want)
		}
	}
}
