package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// What is certainly not applied may be taken for that, and nothing else.
func TestProposeErrors(t *testing.T) {
	n := newNode(Config{Name: "n1"}.withDefaults())
	for err, applied := range map[error]string{
		raft.ErrNotLeader:                    "no",
		raft.ErrEnqueueTimeout:               "no",
		raft.ErrLeadershipTransferInProgress: "no",
		raft.ErrLeadershipLost:               "perhaps",
		raft.ErrRaftShutdown:                 "perhaps",
		raft.ErrAbortedByRestore:             "perhaps",
		errors.New("disk full"):              "perhaps",
		context.DeadlineExceeded:             "perhaps",
	} {
		code := parley.CodeOf(n.proposeError(err))
		if code.NotApplied() != (applied == "no") || !code.Retryable() {
			t.Errorf("%v becomes %v; applied: %s", err, code, applied)
		}
	}
}

// A transfer of leadership that keeps entries out for ever ends the node; two that
// each do their work, long after one another, do not.
func TestStuckTransfer(t *testing.T) {
	n := newNode(Config{Name: "n1"}.withDefaults())
	p := newProposer(n)
	turnedAway := func(term uint64) {
		t.Helper()
		if _, err := p.outcome(entry{term: term}, raft.ErrLeadershipTransferInProgress); !parley.CodeOf(err).NotApplied() {
			t.Errorf("turned away: %v", err)
		}
	}
	turnedAway(1)
	p.handing = p.handing.Add(-time.Hour)
	turnedAway(3)
	if err := n.Err(); err != nil {
		t.Fatalf("after two transfers: %v", err)
	}
	p.handing = p.handing.Add(-time.Hour)
	turnedAway(3)
	if n.Err() == nil {
		t.Error("a transfer that does not end is not noticed")
	}
}

// The queue is bounded; what does not fit is refused and was not applied.
func TestQueueIsBounded(t *testing.T) {
	const queue = 50
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.QueueCommands, cfg.InFlight, cfg.BatchCommands = queue, 1, 10
		cfg.HeartbeatTimeout = 2 * time.Second // it leads until all are started
	})
	leader := c.leader()
	must(t, leader, parley.CreateUser{Name: "box"})
	for _, name := range c.others(leader.cfg.Name) {
		c.f.isolate(name, true) // nothing is committed
	}
	var mu sync.Mutex
	codes := make(map[parley.Code]int)
	var wg sync.WaitGroup
	for range 3 * queue {
		wg.Add(1)
		leader.Start(context.Background(), parley.Request{Command: parley.Send{To: "box", Body: "x"}}, func(r parley.Result, err error) {
			mu.Lock()
			codes[parley.CodeOf(err)]++
			mu.Unlock()
			wg.Done()
		})
	}
	wg.Wait()
	if codes[parley.CodeOverloaded] < queue || codes[parley.CodeOK] != 0 {
		t.Errorf("outcomes: %v", codes)
	}
}

// Whatever a client makes long counts against the queue's bytes.
func TestQueueCountsBytes(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	for _, c := range []parley.Command{
		parley.CreateUser{Name: long}, parley.DeleteUser{Name: long}, parley.Ack{User: long},
		parley.Send{From: long}, parley.Send{To: long}, parley.Send{Body: long},
	} {
		if sizeOf(c) < len(long) {
			t.Errorf("%T: %d bytes", c, sizeOf(c))
		}
	}
}

// Commands whose caller has given up while they were queued are not applied.
func TestGivenUpInTheQueue(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.leader()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	done := make(chan error, 1)
	n.Start(ctx, parley.Request{Command: parley.CreateUser{Name: "anna"}}, func(_ parley.Result, err error) { done <- err })
	if err := <-done; !parley.CodeOf(err).NotApplied() {
		t.Errorf("given up: %v", err)
	}
	if r, err := n.Get(deadline(t, patience), parley.Users{}); err != nil || len(r.Names) != 0 {
		t.Errorf("users: %v %v", r.Names, err)
	}
}

// A follower that has fallen behind the log gets a snapshot, and its watchers
// look again.
func TestSnapshotInstall(t *testing.T) { forStores(t, snapshotInstall) }

func snapshotInstall(t *testing.T, on func(*Config)) {
	if testing.Short() {
		t.Skip("writes 22,000 log entries")
	}
	c := newCluster(t, 3, func(cfg *Config) {
		on(cfg)
		cfg.BatchCommands, cfg.SnapshotInterval = 1, 100*time.Millisecond
		cfg.HeartbeatTimeout = time.Second // the leader must not change, however busy the machine is
	})
	leader := c.leader()
	must(t, leader, parley.CreateUser{Name: "box"})
	must(t, leader, parley.Send{To: "box", Body: "first"})
	behind := c.follower()
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan parley.Message, 8)
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	wg.Go(func() { reader(ctx, t, behind, "box", got) })
	<-got
	c.f.isolate(behind.cfg.Name, true)
	slots := make(chan struct{}, 64)
	for i := range 22000 {
		slots <- struct{}{}
		leader.Start(ctx, parley.Request{Command: parley.CreateUser{Name: fmt.Sprint("u", i%9000)}}, func(_ parley.Result, err error) {
			if err != nil {
				t.Error(err)
			}
			<-slots
		})
	}
	must(t, leader, parley.Send{To: "box", Body: "last"})
	eventually(t, patience, "a shorter log", func() bool {
		first, err := leader.store.FirstIndex()
		return err == nil && first > 1000
	})
	if err := leader.fsm.Checkpoint(deadline(t, patience)); err != nil { // which is the snapshot, with the last message
		t.Fatal(err)
	}
	c.f.isolate(behind.cfg.Name, false)
	select {
	case m := <-got:
		if m.Body != "last" {
			t.Errorf("the watch shows %q", m.Body)
		}
	case <-time.After(2 * patience):
		t.Fatal("the watch missed what came with the snapshot")
	}
	c.sameDigest()
	cancel()
	name := behind.cfg.Name
	c.kill(name)
	c.start(name)
	c.sameDigest()
}
