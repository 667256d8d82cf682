package client_test

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/mux"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport/tcp"
)

// gateways starts real gateways before one fake; the last one leads.
func gateways(t *testing.T, names ...string) (addrs []string) {
	fake := parleytest.NewFake()
	t.Cleanup(fake.Close)
	ctx, cancel := context.WithCancel(context.Background())
	var lns []net.Listener
	for range names {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		lns = append(lns, ln)
		addrs = append(addrs, ln.Addr().String())
	}
	var members []parley.Member
	leader := len(names) - 1
	var wg sync.WaitGroup
	for i, name := range names {
		m := parley.Member{ID: name, Client: addrs[i], Role: parley.RoleFollower, Reachable: true}
		if i == leader {
			m.Role = parley.RoleLeader
		}
		members = append(members, m)
		never := make(chan struct{})
		g := tcp.New(tcp.Config{Service: fake, NodeID: name, Leadership: func() (mux.Leader, <-chan struct{}) {
			return mux.Leader{ID: names[leader], Client: addrs[leader], Self: i == leader}, never
		}})
		wg.Go(func() {
			for {
				nc, err := lns[i].Accept()
				if err != nil {
					return
				}
				wg.Go(func() { g.Handle(ctx, nc) })
			}
		})
	}
	fake.SetMembers(members)
	t.Cleanup(func() {
		cancel()
		for _, ln := range lns {
			ln.Close()
		}
		wg.Wait()
	})
	return addrs
}

func connect(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestGateway is the conformance suite through the real gateway.
func TestGateway(t *testing.T) {
	t.Run("Leader", func(t *testing.T) {
		parleytest.Run(t, func(t *testing.T) parley.Service {
			return connect(t, client.Config{Servers: gateways(t, "n1", "n2", "n3")[:1]})
		})
	})
	t.Run("Any", func(t *testing.T) {
		parleytest.Run(t, func(t *testing.T) parley.Service {
			return connect(t, client.Config{Servers: gateways(t, "n1", "n2", "n3")[:1], Any: true})
		})
	})
}
