package client

import (
	"context"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley"
)

// newMemoryCluster is newCluster without sockets, for tests in virtual time: it is
// reached by its dial.
func newMemoryCluster(t testing.TB, n int) *cluster {
	c := newCluster(t, 0)
	c.hold = 500 * time.Millisecond
	for i := range n {
		node := c.newNode(i)
		node.addr = node.id + ":3000"
		node.advertised = node.addr
		c.nodes = append(c.nodes, node)
		t.Cleanup(node.kill)
	}
	return c
}

// dial is how a memory cluster is reached. A dead node refuses; one that has
// vanished, as hosts do, says nothing.
func (c *cluster) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	i := slices.IndexFunc(c.nodes, func(n *testNode) bool { return n.addr == addr })
	if i < 0 {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
	}
	n := c.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials = append(n.dials, time.Now())
	switch {
	case n.vanished:
		n.mu.Unlock()
		<-ctx.Done()
		n.mu.Lock()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
	case n.dead:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	n.conns[far] = struct{}{}
	n.wg.Go(func() { n.serve(far, nil) })
	return near, nil
}

// vanish makes a node's host disappear: what is sent to it gets no answer, not
// even a refusal.
func (n *testNode) vanish() {
	n.mu.Lock()
	n.vanished = true
	n.mu.Unlock()
	n.gate.shut()
}

// dialled returns how often a node was dialled, and how often at most within any
// time of length d.
func (n *testNode) dialled(d time.Duration) (total, most int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, from := range n.dials {
		to := i
		for to < len(n.dials) && n.dials[to].Sub(from) < d {
			to++
		}
		most = max(most, to-i)
	}
	return len(n.dials), most
}

// When a leader with many clients dies, the others see them come in spread out,
// and not more often than the back-off allows.
func TestManyClientsFailOver(t *testing.T) {
	for _, tt := range []struct {
		election time.Duration
		clients  int
		dials    int // most for each client and server
	}{
		{30 * time.Millisecond, manyClients, 2},
		{2 * time.Second, manyClients / 5, 5},
	} {
		t.Run(tt.election.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { manyClientsFailOver(t, tt.election, tt.clients, tt.dials) })
		})
	}
}

func manyClientsFailOver(t *testing.T, election time.Duration, clients, dials int) {
	cl := newMemoryCluster(t, 3)
	var list []*Client
	for range clients {
		list = append(list, open(t, Config{Servers: cl.addrs(), Dial: cl.dial}))
	}
	for _, c := range list {
		onNode(t, c, "n1")
	}
	time.Sleep(time.Minute) // virtual time, as all here: until all have learnt what they want to know
	for _, n := range cl.nodes {
		n.mu.Lock()
		n.dials = nil
		n.mu.Unlock()
	}
	cl.lead(-1)
	cl.nodes[0].kill()
	time.Sleep(election) // how long nobody leads, which is what is tested
	cl.lead(1)
	elected := time.Now()
	for _, c := range list {
		onNode(t, c, "n2")
	}
	t.Logf("all on the new leader %v after it was elected", time.Since(elected))
	if took := time.Since(elected); took > max(2*election, 100*time.Millisecond) {
		t.Errorf("the last client came %v after the election", took)
	}
	for _, n := range cl.nodes[1:] {
		total, most := n.dialled(time.Millisecond)
		t.Logf("%s was dialled %d times, %d times at most in one millisecond", n.id, total, most)
		if total > dials*clients {
			t.Errorf("%s was dialled %d times by %d clients", n.id, total, clients)
		}
		if most > clients/20+10 {
			t.Errorf("%s was dialled %d times in one millisecond by %d clients", n.id, most, clients)
		}
	}
	var wg sync.WaitGroup
	for _, c := range list {
		wg.Go(func() { c.Close() })
	}
	wg.Wait()
}

// A host that is gone does not refuse connections. Those who look for the leader
// must not wait for it.
func TestVanishedServers(t *testing.T) {
	for gone := range 4 {
		for range 10 { // in random order
			synctest.Test(t, func(t *testing.T) {
				cl := newMemoryCluster(t, 5)
				cl.lead(4)
				for _, n := range cl.nodes[:gone] {
					n.vanish()
				}
				began := time.Now()
				c := open(t, Config{Servers: cl.addrs(), Dial: cl.dial})
				onNode(t, c, "n5")
				if took, most := time.Since(began), 200*time.Millisecond; took > most {
					t.Errorf("%d of 5 servers gone: found the leader after %v, want at most %v", gone, took, most)
				}
			})
		}
	}
}

// The leader's host vanishes. For a while the others still send everybody there,
// then one of them leads.
func TestVanishedLeader(t *testing.T) {
	for range 10 {
		synctest.Test(t, func(t *testing.T) {
			cl := newMemoryCluster(t, 3)
			c := open(t, Config{Servers: cl.addrs(), Dial: cl.dial})
			s := c.Session()
			must(t, s, parley.CreateUser{Name: "bob"})
			cl.nodes[0].vanish()
			began := time.Now()
			time.AfterFunc(450*time.Millisecond, func() { cl.lead(2) })
			must(t, s, parley.Send{To: "bob", Body: "1"})
			if took := time.Since(began); took > 900*time.Millisecond {
				t.Errorf("written again after %v", took)
			}
			onNode(t, c, "n3")
		})
	}
}

// A server says that another node leads, which does not know it yet: the client
// must not be content with the former.
func TestNamedTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newMemoryCluster(t, 2)
		c := open(t, Config{Servers: cl.addrs(), Dial: cl.dial})
		onNode(t, c, "n1")
		cl.nodes[1].blind.Store(true)
		cl.lead(1)
		time.Sleep(100 * time.Millisecond) // virtual time: the first redirects have come
		if id, _ := c.Node(); id != "n1" {
			t.Fatalf("on %s already", id)
		}
		cl.nodes[1].blind.Store(false)
		onNode(t, c, "n2")
	})
}

// A server that takes us and hangs up at once must not be dialled in a loop.
func TestFlappingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newMemoryCluster(t, 1)
		n := cl.nodes[0]
		var ev events
		open(t, Config{Servers: cl.addrs(), Dial: cl.dial, Events: func(e Event) {
			ev.add(e)
			if e.Kind == Connected {
				n.mu.Lock()
				for nc := range n.conns {
					nc.Close()
				}
				n.mu.Unlock()
			}
		}})
		time.Sleep(20 * time.Second) // virtual time in which attempts are counted
		// The first second takes about a dozen, then it is one to two in a second.
		if got := ev.count(Connected); got < 15 || got > 60 {
			t.Errorf("connected %d times in 20 s", got)
		}
	})
}
