package peers_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/bench/internal/peers"
	"github.com/parley-chat/parley/bench/internal/server"
	"github.com/parley-chat/parley/internal/bench"
)

// TestMain lets the test binary be the peers' servers.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "certs") {
		os.Exit(server.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// others are the peers that can be had here.
func others(t *testing.T) []peers.Peer {
	all := append(peers.NATS(), peers.Etcd())
	if rabbit, err := peers.RabbitMQ(); err == nil {
		all = append(all, rabbit)
	} else {
		t.Log("left out:", err)
	}
	return all
}

// TestPeers: what is sent arrives, and nothing is acknowledged by a cluster that
// has no majority.
func TestPeers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of three processes of every system: too long for -short")
	}
	for _, p := range others(t) {
		t.Run(p.ID, func(t *testing.T) { testPeer(t, p) })
	}
}

func testPeer(t *testing.T, p peers.Peer) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := p.Start(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, window := range []int{1, 8} {
		for _, atLeader := range []bool{true, false} {
			t.Run(fmt.Sprintf("window %d, leader %t", window, atLeader), func(t *testing.T) {
				dial, err := c.Dial(ctx, window)
				if err != nil {
					t.Fatal(err)
				}
				readers, err := c.DialReader(ctx, atLeader)
				if err != nil {
					t.Fatal(err)
				}
				r, err := bench.Run(ctx, bench.Config{
					Dial: dial, DialReader: readers, Mode: bench.E2E, Senders: 2, Window: window, Users: 2, Duration: 200 * time.Millisecond,
				})
				if err != nil || r.Done == 0 || r.Errors > 0 || r.Lost > 0 {
					t.Errorf("%d done, %d errors, %d connections lost, %v, %q", r.Done, r.Errors, r.Lost, err, r.Problems)
				}
			})
		}
	}
	testNoMajority(ctx, t, c)
}

func testNoMajority(ctx context.Context, t *testing.T, c *peers.Cluster) {
	dial, err := c.DialAll(ctx, 8)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := send(ctx, cl, 10*time.Second); err != nil {
		t.Errorf("before the failure: %v", err)
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		if n != leader {
			n.Kill()
		}
	}
	if err := send(ctx, cl, 500*time.Millisecond); err == nil {
		t.Error("acknowledged without a majority")
	}
	if err := cl.Close(); err != nil {
		t.Error(err)
	}
	for _, n := range c.Nodes() {
		if n != leader {
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.WaitHealthy(ctx); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

func send(ctx context.Context, cl bench.Client, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := parley.Do(ctx, cl, parley.Request{Command: parley.Send{To: "someone", Body: "hello"}})
	return err
}
