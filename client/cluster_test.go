package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/mux"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/wire"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// cluster is a set of servers in this process that share one fake and agree on
// who leads.
type cluster struct {
	t     testing.TB
	fake  *parleytest.Fake
	nodes []*testNode

	hold time.Duration // how long a hello waits for an election

	mu      sync.Mutex
	leader  int // index; -1: none
	changed chan struct{}
}

// testNode is one server.
type testNode struct {
	c          *cluster
	i          int
	id, addr   string
	advertised string
	svc        parley.Service // default: the fake
	login      parley.Login   // default: none

	mu     sync.Mutex
	ln     net.Listener
	conns  map[net.Conn]struct{}
	wg     sync.WaitGroup
	dead   bool
	hellos int
	tls    *tls.Config
	gate   *gate

	// Of a memory cluster.
	vanished bool
	dials    []time.Time
	blind    atomic.Bool // does not know who leads
}

// newCluster starts n servers. The first leads.
func newCluster(t testing.TB, n int) *cluster {
	c := &cluster{t: t, fake: parleytest.NewFake(), changed: make(chan struct{})}
	t.Cleanup(c.fake.Close)
	for i := range n {
		node := c.newNode(i)
		node.listen("127.0.0.1:0")
		node.advertised = node.addr
		c.nodes = append(c.nodes, node)
		t.Cleanup(node.kill)
	}
	return c
}

func (c *cluster) newNode(i int) *testNode {
	return &testNode{c: c, i: i, id: fmt.Sprintf("n%d", i+1), conns: make(map[net.Conn]struct{}), svc: c.fake, gate: newGate()}
}

// addrs returns the addresses of the given nodes, of all if none is given.
func (c *cluster) addrs(nodes ...int) []string {
	var list []string
	for i, n := range c.nodes {
		if len(nodes) == 0 || slices.Contains(nodes, i) {
			list = append(list, n.addr)
		}
	}
	return list
}

// lead makes node i the leader, or nobody with -1.
func (c *cluster) lead(i int) {
	c.mu.Lock()
	c.leader = i
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
}

func (c *cluster) members() []parley.Member {
	var ms []parley.Member
	for i, n := range c.nodes {
		m := parley.Member{ID: n.id, Client: n.advertised, Role: parley.RoleFollower, Reachable: true}
		if i == c.leader {
			m.Role = parley.RoleLeader
		}
		ms = append(ms, m)
	}
	return ms
}

func (n *testNode) leadership() (mux.Leader, <-chan struct{}) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if n.c.leader < 0 || n.blind.Load() {
		return mux.Leader{}, n.c.changed
	}
	l := n.c.nodes[n.c.leader]
	return mux.Leader{ID: l.id, Client: l.advertised, Self: l == n}, n.c.changed
}

func (n *testNode) listen(addr string) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.mu.Lock()
	n.ln, n.addr, n.dead = ln, ln.Addr().String(), false
	n.mu.Unlock()
	n.wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			n.mu.Lock()
			if n.dead {
				n.mu.Unlock()
				nc.Close()
				return
			}
			n.conns[nc] = struct{}{}
			n.hellos++
			cfg := n.tls
			n.mu.Unlock()
			n.wg.Go(func() { n.serve(nc, cfg) })
		}
	})
}

// kill closes everything, as the end of a process does.
func (n *testNode) kill() {
	n.mu.Lock()
	n.dead = true
	if n.ln != nil {
		n.ln.Close()
	}
	for nc := range n.conns {
		if tcp, ok := nc.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		nc.Close()
	}
	n.mu.Unlock()
	n.gate.open()
	n.wg.Wait()
}

// restart brings a killed node back under its address.
func (n *testNode) restart() { n.listen(n.addr) }

func (n *testNode) serve(raw net.Conn, cfg *tls.Config) {
	nc := raw
	if cfg != nil {
		nc = tls.Server(raw, cfg)
	}
	defer func() {
		nc.Close()
		n.mu.Lock()
		delete(n.conns, raw)
		n.mu.Unlock()
	}()
	gated := gatedConn{nc, n.gate}
	br := bufio.NewReader(gated)
	first, err := wire.NewClassicReader(br).Next()
	if err != nil {
		return
	}
	h, refusal := wire.ParseHello(first)
	if refusal != nil {
		gated.Write(wire.AppendHelloRefusal(nil, refusal))
		return
	}
	serve := mux.ServerConfig{Service: n.svc, Login: n.login, Leadership: n.leadership}
	leader, changed := n.leadership()
	if late := time.After(n.c.hold); h.Mode == wire.ModeLeader {
		for waiting := true; waiting && leader.ID == ""; {
			select {
			case <-changed:
				if leader, changed = n.leadership(); leader.ID != n.id {
					time.Sleep(rand.N(spread)) // as the gateway does: redirects are not all sent at once
				}
			case <-late:
				waiting = false
			}
		}
	}
	switch {
	case h.Mode == wire.ModeAny:
		serve.Leadership = nil
	case leader.ID == "":
		gated.Write(wire.AppendHelloRefusal(nil, parley.Errorf(parley.CodeNoQuorum, "no leader")))
		return
	case !leader.Self:
		gated.Write(wire.AppendRedirect(nil, wire.Redirect{Node: leader.ID, Addr: leader.Client}))
		io.Copy(io.Discard, nc) // until the client closes
		return
	}
	gated.Write(wire.AppendWelcome(nil, wire.Welcome{Node: n.id, MaxFrame: wire.DefaultMaxFrame, Idle: 90 * time.Second}))
	mux.Serve(context.Background(), gated, br, serve)
}

// gate lets bytes through while it is open: a closed one is a stopped process,
// whose kernel still accepts connections.
type gate struct {
	mu     sync.Mutex
	passes chan struct{} // closed while open
}

func newGate() *gate {
	g := &gate{passes: make(chan struct{})}
	close(g.passes)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	g.passes = make(chan struct{})
	g.mu.Unlock()
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.passes:
	default:
		close(g.passes)
	}
}

func (g *gate) wait() {
	g.mu.Lock()
	passes := g.passes
	g.mu.Unlock()
	<-passes
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.gate.wait()
	return n, err
}

func (c gatedConn) Write(b []byte) (int, error) {
	c.gate.wait()
	return c.Conn.Write(b)
}

// events collects what a client tells.
type events struct {
	mu   sync.Mutex
	list []Event
}

func (e *events) add(ev Event) {
	e.mu.Lock()
	e.list = append(e.list, ev)
	e.mu.Unlock()
}

func (e *events) count(kind EventKind) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, ev := range e.list {
		if ev.Kind == kind {
			n++
		}
	}
	return n
}

// open returns a client that is closed at the end of the test.
func open(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok is true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// onNode waits until the client is connected to a node.
func onNode(t testing.TB, c *Client, id string) {
	t.Helper()
	eventually(t, "connected to "+id, func() bool { node, _ := c.Node(); return node == id })
}

// must runs a command in a session and wants it done.
func must(t testing.TB, s *parley.Session, cmd parley.Command) parley.Result {
	t.Helper()
	r, err := s.Do(testContext(t), cmd)
	if err != nil || r.Code != parley.CodeOK {
		t.Fatalf("%T: %v %v", cmd, r.Err(), err)
	}
	return r
}

// bodies returns a mailbox's unread texts.
func bodies(t testing.TB, svc parley.Service, user string) []string {
	t.Helper()
	var list []string
	for after := (parley.Cursor{}); ; {
		r, err := svc.Get(testContext(t), parley.Inbox{User: user, After: after})
		if err != nil || r.Code != parley.CodeOK {
			t.Fatalf("inbox of %s: %v %v", user, r.Err(), err)
		}
		for _, m := range r.Messages {
			list = append(list, m.Body)
			after = m.Cursor
		}
		if !r.More {
			return list
		}
	}
}

// numbers returns "1" to "n".
func numbers(n int) []string {
	var list []string
	for i := 1; i <= n; i++ {
		list = append(list, fmt.Sprint(i))
	}
	return list
}
