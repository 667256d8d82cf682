package test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/parley-chat/parley/internal/local"
	"github.com/parley-chat/parley/internal/pause"
)

// processRows are about what happens to processes.
func processRows() []row {
	return []row{
		{
			name: "kill-leader", happens: "the leader is killed (`kill -9`) under load, five times", sample: true,
			passes: "another one leads and commits within 10 s", run: killLeader,
		},
		{
			name: "kill-follower", happens: "a follower is killed under load, five times",
			passes: "commits go on", run: killFollower,
		},
		{
			name: "kill-all", happens: "all nodes are killed at the same moment, three times", sample: true,
			passes: "", run: killEverybody,
		},
		{
			name: "pause-leader-3s", happens: "the leader stands still (SIGSTOP) for 3 s and goes on, three times",
			passes: "another one leads within 10 s; the former one acknowledges nothing afterwards and answers no question with what is out of date, also not those that wait in its sockets",
			run:    func(e *episode) { pauseLeader(e, 3, 3*time.Second) },
		},
		{
			name: "pause-leader-30s", happens: "the same for 30 s, once", passes: "the same",
			run: func(e *episode) { pauseLeader(e, 1, 30*time.Second) },
		},
		{
			name: "stop-leader", happens: "the leader is stopped in order (SIGTERM) and started again, three times",
			passes: "status 0 within 20 s, no pause in writing of more than 5 s", run: stopLeader,
		},
		{
			name: "rolling-restart", happens: "one node after the other is stopped in order and started again when the former is ready, two rounds",
			passes: "no pause in writing of more than 5 s", run: rollingRestart,
		},
		{
			name: "restart-b-kill-c", happens: "a follower that was down is started, and at once the other one is killed, three times",
			passes: "commits within 10 s", run: restartBKillC,
		},
		{
			name: "restart-storm", happens: "about every second a random node is killed, and started again within 1.5 s, for a minute (ten with LONG=1), with five nodes one time in two",
			passes: "9 of 10 seconds in which a majority takes connections see a commit; healed within 10 s of the last kill", run: restartStorm,
		},
		{
			name: "slow-follower", happens: "a follower stands still for 150 ms of every 200 ms, for 20 s",
			passes: "p99 of sending at most twice that before or after (or 50 ms), it has caught up within 60 s", run: slowFollower,
		},
	}
}

func killLeader(e *episode) {
	e.start(setting{talk: true})
	for range 5 {
		n := e.leader()
		e.fault("kill leader", "%s", n.Name)
		n.Kill()
		e.newLeader(n, commitsWithin)
		e.begin(n)
		e.whole()
	}
	e.healed()
}

func killFollower(e *episode) {
	e.start(setting{talk: true})
	for range 5 {
		n := e.follower()
		e.fault("kill follower", "%s", n.Name)
		n.Kill()
		e.load.awaitAcks(1000)
		e.begin(n)
		e.whole()
	}
	e.healed()
}

func killEverybody(e *episode) {
	e.start(setting{args: logStore(e)})
	for range 3 {
		e.load.awaitAcks(500 + e.rng.Int64N(1500))
		e.fault("kill all", "")
		e.Kill()
		if err := e.Start(); err != nil {
			e.Fatal(err)
		}
		e.whole()
	}
	e.healed()
}

// logStore is a random store for the log.
func logStore(e *episode) []string {
	store := []string{"bolt", "wal"}[e.rng.IntN(2)]
	e.note("log in %s", store)
	return []string{"--log-store", store}
}

func pauseLeader(e *episode, times int, d time.Duration) {
	e.start(setting{talk: true})
	for range times {
		n := e.leader()
		e.fault(fmt.Sprintf("pause leader %v", d), "%s", n.Name)
		began := time.Now()
		if err := n.Pause(); err != nil {
			e.Fatal(err)
		}
		e.newLeader(n, commitsWithin)
		time.Sleep(time.Until(began.Add(d)))
		if err := n.Resume(); err != nil {
			e.Fatal(err)
		}
		e.healed()
		e.whole()
		e.load.awaitAcks(500)
	}
}

// longestGap is the longest time without an acknowledgement while something is
// done.
func (e *episode) longestGap(do func()) time.Duration {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // also when do gives up
	gap := make(chan time.Duration, 1)
	go func() {
		var longest time.Duration
		last, since := e.load.acked.Load(), time.Now()
		for pause.For(ctx, 5*time.Millisecond) {
			if now := e.load.acked.Load(); now != last {
				longest = max(longest, time.Since(since))
				last, since = now, time.Now()
			}
		}
		gap <- max(longest, time.Since(since))
	}()
	do()
	cancel()
	return <-gap
}

func stopLeader(e *episode) {
	e.start(setting{talk: true})
	for range 3 {
		n := e.leader()
		e.fault("stop leader", "%s", n.Name)
		e.stopped(n)
		e.newLeader(n, commitsWithin)
		e.begin(n)
		e.whole()
	}
	e.healed()
}

// stopped stops a node in order, and wants writing to go on meanwhile.
func (e *episode) stopped(n *local.Node) {
	e.Helper()
	gap := e.longestGap(func() {
		if err := n.Stop(context.Background()); err != nil {
			e.Error(err)
		}
	})
	if gap > 5*time.Second {
		e.Errorf("nothing was acknowledged for %v while %s stopped", gap, n.Name)
	}
}

func rollingRestart(e *episode) {
	e.start(setting{talk: true, args: logStore(e)})
	for range 2 {
		for _, n := range e.Nodes() {
			e.fault("restart", "%s", n.Name)
			e.stopped(n)
			e.begin(n)
			e.whole()
			e.load.awaitAcks(200)
		}
	}
	e.healed()
}

func restartBKillC(e *episode) {
	e.start(setting{talk: true})
	for range 3 {
		leader := e.leader()
		b, c := others(e.Cluster, leader)[0], others(e.Cluster, leader)[1]
		if e.rng.IntN(2) == 0 {
			b, c = c, b
		}
		e.fault("kill follower", "%s", b.Name)
		b.Kill()
		e.load.awaitAcks(2000)
		time.Sleep(e.between(0, 5*time.Second)) // the leader tries less and less often to reach it
		e.begin(b)
		e.fault("kill follower", "%s", c.Name)
		c.Kill()
		if !e.load.acksWithin(commitsWithin) {
			e.Fatalf("nothing is committed %v after %s came back and %s died", commitsWithin, b.Name, c.Name)
		}
		e.load.awaitAcks(500)
		e.begin(c)
		e.whole()
	}
	e.healed()
}

// restartStorm counts the seconds in which a majority runs, and those of them in
// which something is committed.
func restartStorm(e *episode) {
	nodes := 3 + 2*e.rng.IntN(2)
	e.start(setting{nodes: nodes})
	e.note("%d nodes", nodes)
	length := time.Minute
	if *matrixLong {
		length = 10 * time.Minute
	}
	back := make(map[*local.Node]time.Time) // when those that are down start again
	starting := make(map[*local.Node]bool)  // and whose port does not answer yet
	quorate := func() bool {
		for n := range starting {
			if conn, err := net.Dial("tcp", n.Peer); err == nil {
				conn.Close()
				delete(starting, n)
			}
		}
		return len(back)+len(starting) <= nodes/2
	}
	seconds, commits := 0, 0
	end, kill := time.Now().Add(length), time.Now()
	for time.Now().Before(end) {
		acked, whole := e.load.acked.Load(), quorate()
		for second := time.Now(); time.Since(second) < time.Second; time.Sleep(5 * time.Millisecond) {
			now := time.Now()
			if n := e.Nodes()[e.rng.IntN(nodes)]; now.After(kill) {
				if n.PID() != 0 {
					e.fault("kill", "%s", n.Name)
					n.Kill()
					delete(starting, n)
					back[n] = now.Add(e.between(100*time.Millisecond, 1500*time.Millisecond))
				}
				kill = now.Add(e.between(700*time.Millisecond, 1300*time.Millisecond))
			}
			for n, at := range back {
				if now.After(at) {
					e.begin(n)
					delete(back, n)
					starting[n] = true
				}
			}
			whole = whole && quorate()
		}
		if whole {
			seconds++
			if e.load.acked.Load() > acked {
				commits++
			} else {
				e.note("a second without a commit")
			}
		}
	}
	for n := range back {
		e.begin(n)
	}
	e.healed()
	e.extra = append(e.extra, fmt.Sprintf("commits in %d of %d seconds with a majority", commits, seconds))
	if commits*10 < seconds*9 {
		e.Errorf("commits in only %d of %d seconds in which a majority ran", commits, seconds)
	}
	ctx, cancel := context.WithTimeout(e.Context(), commitsWithin)
	defer cancel()
	if err := e.WaitReady(ctx); err != nil {
		e.Errorf("not healed %v after the last kill: %v", commitsWithin, err)
	}
}

// slowFollower compares how long sending takes with and without.
func slowFollower(e *episode) {
	e.start(setting{senders: 1, boxes: 2})
	n := e.follower()
	measure := func(d time.Duration, every func()) time.Duration {
		stop := time.After(d)
		e.load.latency.reset()
		for {
			select {
			case <-stop:
				return e.load.latency.quantile(99)
			default:
				every()
			}
		}
	}
	before := measure(10*time.Second, func() { time.Sleep(100 * time.Millisecond) })
	e.fault("slow follower", "%s", n.Name)
	slow := measure(20*time.Second, func() {
		if err := n.Pause(); err != nil {
			e.Fatal(err)
		}
		time.Sleep(150 * time.Millisecond)
		if err := n.Resume(); err != nil {
			e.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	})
	e.healed()
	e.caughtUp(time.Minute)
	after := measure(10*time.Second, func() { time.Sleep(100 * time.Millisecond) })
	e.extra = append(e.extra, fmt.Sprintf("p99 of sending %v, with a slow follower %v, then %v", before, slow, after))
	if limit := max(2*before, 2*after, 50*time.Millisecond); slow > limit {
		e.Errorf("p99 of sending is %v with a slow follower, %v and %v without: want at most %v", slow, before, after, limit)
	}
}
