package chaos_test

import (
	"context"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/chaos"
	"github.com/parley-chat/parley/parleytest"
)

// cluster is a fake cluster of three nodes: while its leader is down and nobody
// else leads yet, it turns all commands away.
type cluster struct {
	*parleytest.Fake
	failover time.Duration

	mu     sync.Mutex
	leader string
	term   uint64
	down   map[string]bool
	failed []string      // in this order
	faults []chaos.Fault // the same
	led    int           // failures of the leader
	away   atomic.Bool
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{Fake: parleytest.NewFake(), failover: 30 * time.Millisecond, leader: "n1", term: 1, down: map[string]bool{}}
	t.Cleanup(c.Fake.Close)
	c.OnStart(func(parley.Request) parleytest.Fault {
		if c.away.Load() {
			return parleytest.Fault{Err: parley.Errorf(parley.CodeNotLeader, "no leader")}
		}
		return parleytest.Fault{}
	})
	c.publish()
	return c
}

// publish makes the members known. mu is held, or nobody else knows c.
func (c *cluster) publish() {
	var members []parley.Member
	for _, name := range []string{"n1", "n2", "n3"} {
		m := parley.Member{ID: name, Role: parley.RoleFollower, Term: c.term, Applied: 10, Reachable: !c.down[name]}
		if name == c.leader {
			m.Role = parley.RoleLeader
		}
		members = append(members, m)
	}
	c.SetMembers(members)
}

func (c *cluster) Fail(_ context.Context, node string, fault chaos.Fault) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed, c.faults = append(c.failed, node), append(c.faults, fault)
	c.down[node] = true
	if node == c.leader {
		c.led++
		c.leader, c.term = "", c.term+1
		c.away.Store(true)
		time.AfterFunc(c.failover, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, name := range []string{"n3", "n2", "n1"} {
				if !c.down[name] {
					c.leader = name
				}
			}
			c.away.Store(false)
			c.publish()
		})
	}
	c.publish()
	return nil
}

func (c *cluster) Repair(_ context.Context, node string, _ chaos.Fault) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.down, node)
	c.publish()
	return nil
}

// conn is one client of the fake cluster.
type conn struct {
	parley.Service
	// show is what the reader gets to see of each message.
	show func(m parley.Message) []parley.Message
}

func (c *conn) Close() error { return nil }

func (c *conn) Receive(ctx context.Context, user string, from parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		for m, err := range c.Watch(ctx, user, from) {
			if err != nil {
				yield(m, err)
				return
			}
			for _, m := range c.show(m) {
				if !yield(m, nil) {
					return
				}
			}
			_, _ = parley.Do(ctx, c, parley.Request{Command: parley.Ack{User: user, UpTo: m.Cursor}})
		}
	}
}

func config(c *cluster) chaos.Config {
	return chaos.Config{
		Dial: func() (chaos.Client, error) {
			return &conn{Service: c, show: func(m parley.Message) []parley.Message { return []parley.Message{m} }}, nil
		},
		Target:    c,
		Duration:  time.Second,
		KillEvery: 200 * time.Millisecond,
		Down:      20 * time.Millisecond,
		Senders:   3,
		Rate:      3000,
		Patience:  20 * time.Second,
	}
}

func run(t *testing.T, cfg chaos.Config) (chaos.Report, error) {
	t.Helper()
	r, err := chaos.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r.Do(t.Context())
}

func TestCleanRun(t *testing.T) {
	c := newCluster(t)
	cfg := config(c)
	events := map[chaos.EventKind]int{}
	cfg.Events = func(e chaos.Event) {
		events[e.Kind]++
		if e.Kind == chaos.EventTrouble {
			t.Errorf("trouble: %s", e.Detail)
		}
	}
	report, err := run(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK() || report.Sent < 100 || report.Acknowledged != report.Sent || report.Delivered != report.Sent {
		t.Errorf("verdict %v\n%s", report.Verdict, strings.Join(report.Problems, "\n"))
	}
	if len(report.Failures) < 3 || len(report.Failures) != len(c.failed) {
		t.Fatalf("%d failures reported, %d made", len(report.Failures), len(c.failed))
	}
	leaders := 0
	for i, k := range report.Failures {
		if k.Number != i+1 || k.Node != c.failed[i] || k.Fault != chaos.Kill || c.faults[i] != chaos.Kill || !k.Closed || k.Gap <= 0 {
			t.Errorf("kill %+v, made %s", k, c.failed[i])
		}
		if k.Leader {
			leaders++
			if k.Gap < c.failover {
				t.Errorf("kill %d of the leader: gap %v, but nobody led for %v", k.Number, k.Gap, c.failover)
			}
		}
	}
	if leaders != c.led || leaders == 0 || leaders == len(report.Failures) {
		t.Errorf("%d of %d kills reported as of the leader, made %d", leaders, len(report.Failures), c.led)
	}
	if report.Elections != c.led {
		t.Errorf("%d elections reported, %d made", report.Elections, c.led)
	}
	for _, kind := range []chaos.EventKind{chaos.EventFailure, chaos.EventGap, chaos.EventRepair} {
		if events[kind] != len(report.Failures) {
			t.Errorf("%d events of kind %d for %d kills", events[kind], kind, len(report.Failures))
		}
	}
	if result, err := c.Get(t.Context(), parley.Users{}); err != nil || len(result.Names) != 0 {
		t.Errorf("left behind: %v, %v", result.Names, err)
	}
}

// loses acknowledges some messages without storing them.
type loses struct{ parley.Service }

func (s loses) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	if _, ok := r.Command.(parley.Send); ok && r.Seq%100 == 0 {
		r.Command = parley.Ack{User: r.Command.Key()} // takes the number, does nothing
	}
	s.Service.Start(ctx, r, done)
}

// invents sends some messages as somebody else's.
type invents struct{ parley.Service }

func (s invents) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	if send, ok := r.Command.(parley.Send); ok && r.Seq%100 == 0 {
		s.Service.Start(ctx, parley.Request{Command: parley.Send{To: send.To, Body: "boo"}}, func(parley.Result, error) {})
	}
	s.Service.Start(ctx, r, done)
}

// repeats forgets that it has applied some messages already.
type repeats struct{ parley.Service }

func (s repeats) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	if _, ok := r.Command.(parley.Send); ok && r.Seq%100 == 0 {
		s.Service.Start(ctx, parley.Request{Command: r.Command}, func(parley.Result, error) {})
	}
	s.Service.Start(ctx, r, done)
}

// TestPlantedErrors breaks each promise and wants it noticed.
func TestPlantedErrors(t *testing.T) {
	tests := []struct {
		name string
		wrap func(parley.Service) parley.Service
		show func() func(parley.Message) []parley.Message
		bad  func(chaos.Report) int
	}{
		{name: "lost", wrap: func(s parley.Service) parley.Service { return loses{s} }, bad: func(r chaos.Report) int { return r.Lost }},
		{name: "phantom", wrap: func(s parley.Service) parley.Service { return invents{s} }, bad: func(r chaos.Report) int { return r.Phantom }},
		{name: "applied twice", wrap: func(s parley.Service) parley.Service { return repeats{s} }, bad: func(r chaos.Report) int { return r.Duplicated }},
		{
			name: "shown twice",
			show: func() func(parley.Message) []parley.Message {
				return func(m parley.Message) []parley.Message {
					if m.ID%100 == 0 {
						return []parley.Message{m, m}
					}
					return []parley.Message{m}
				}
			},
			bad: func(r chaos.Report) int { return r.Duplicated },
		},
		{
			name: "shown in another order",
			show: func() func(parley.Message) []parley.Message {
				var held []parley.Message
				return func(m parley.Message) []parley.Message {
					if m.ID == 50 {
						held = []parley.Message{m}
						return nil
					}
					shown := append([]parley.Message{m}, held...)
					held = nil
					return shown
				}
			},
			bad: func(r chaos.Report) int { return r.Reordered },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			cfg := config(c)
			cfg.Duration, cfg.KillEvery = 300*time.Millisecond, 200*time.Millisecond
			cfg.Dial = func() (chaos.Client, error) {
				var s parley.Service = c
				if tt.wrap != nil {
					s = tt.wrap(c)
				}
				show := func(m parley.Message) []parley.Message { return []parley.Message{m} }
				if tt.show != nil {
					show = tt.show()
				}
				return &conn{Service: s, show: show}, nil
			}
			report, err := run(t, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if report.OK() || tt.bad(report) == 0 || len(report.Problems) == 0 {
				t.Errorf("not noticed: %v", report.Verdict)
			}
		})
	}
}

// TestUnknownOutcomes lets answers get lost, with and without effect.
func TestUnknownOutcomes(t *testing.T) {
	c := newCluster(t)
	c.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.Send); !ok {
			return parleytest.Fault{}
		}
		switch rand.IntN(50) {
		case 0:
			return parleytest.Fault{Err: parley.Errorf(parley.CodeInterrupted, "connection lost"), Applied: true}
		case 1:
			return parleytest.Fault{Err: parley.Errorf(parley.CodeInterrupted, "connection lost")}
		}
		return parleytest.Fault{}
	})
	cfg := config(c)
	cfg.Duration = 300 * time.Millisecond
	report, err := run(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK() || report.Acknowledged != report.Sent {
		t.Errorf("verdict %v\n%s", report.Verdict, strings.Join(report.Problems, "\n"))
	}
}

func TestRefusals(t *testing.T) {
	c := newCluster(t)
	c.SetLimits(parleytest.Limits{BodyBytes: 1})
	cfg := config(c)
	cfg.Duration, cfg.KillEvery = 100*time.Millisecond, time.Hour
	var trouble atomic.Int64
	cfg.Events = func(e chaos.Event) {
		if e.Kind == chaos.EventTrouble {
			trouble.Add(1)
		}
	}
	report, err := run(t, cfg)
	if err == nil || !strings.Contains(err.Error(), "nothing was acknowledged") {
		t.Errorf("error %v", err)
	}
	if trouble.Load() == 0 || !report.OK() || report.Delivered != 0 {
		t.Errorf("%d troubles, verdict %v", trouble.Load(), report.Verdict)
	}
}

func TestClusterThatDoesNotHeal(t *testing.T) {
	c := newCluster(t)
	cfg := config(c)
	cfg.Patience = 300 * time.Millisecond
	cfg.Target = unrepaired{c}
	report, err := run(t, cfg)
	if err == nil || !strings.Contains(err.Error(), "did not heal") || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("error %v", err)
	}
	if len(report.Failures) != 1 {
		t.Errorf("%d failures", len(report.Failures))
	}
}

type unrepaired struct{ *cluster }

func (unrepaired) Repair(context.Context, string, chaos.Fault) error { return nil }

// TestClusterThatDoesNotDrain has readers who see everything and acknowledge
// nothing.
func TestClusterThatDoesNotDrain(t *testing.T) {
	c := newCluster(t)
	c.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.Ack); ok {
			return parleytest.Fault{Err: parley.Errorf(parley.CodeOverloaded, "no")}
		}
		return parleytest.Fault{}
	})
	cfg := config(c)
	cfg.Duration, cfg.KillEvery, cfg.Patience = 100*time.Millisecond, time.Hour, 500*time.Millisecond
	_, err := run(t, cfg)
	if err == nil || !strings.Contains(err.Error(), "not drained") || !strings.Contains(err.Error(), "unread messages") {
		t.Errorf("error %v", err)
	}
}

// TestStop ends a long run early and still wants a verdict.
func TestStop(t *testing.T) {
	c := newCluster(t)
	cfg := config(c)
	cfg.Duration = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Events = func(e chaos.Event) {
		if e.Kind == chaos.EventGap && e.Failure.Number == 2 {
			cancel()
		}
	}
	r, err := chaos.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	report, err := r.Do(ctx)
	if err != nil || !report.OK() || report.Acknowledged == 0 || len(report.Failures) != 2 {
		t.Errorf("report %v, %d failures, error %v", report.Verdict, len(report.Failures), err)
	}
	if s := r.Snapshot(); s.Verdict != report.Verdict || len(s.Members) != 3 || s.Elapsed <= 0 {
		t.Errorf("snapshot %+v", s)
	}
}

func TestSteady(t *testing.T) {
	for _, elections := range []int{0, 1} {
		c := newCluster(t)
		cfg := config(c)
		cfg.Steady, cfg.Duration = true, 300*time.Millisecond
		if elections > 0 {
			time.AfterFunc(200*time.Millisecond, func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.term, c.leader = c.term+1, "n2"
				c.publish()
			})
		}
		report, err := run(t, cfg)
		if (err != nil) != (elections > 0) || !report.OK() || len(report.Failures) != 0 || report.Elections != elections {
			t.Errorf("%d elections: %v, %d failures, %d elections reported, error %v", elections, report.Verdict, len(report.Failures), report.Elections, err)
		}
	}
}

// TestFaults wants the faults in turns, at leaders only, and no more than asked for.
func TestFaults(t *testing.T) {
	c := newCluster(t)
	cfg := config(c)
	cfg.Faults = []chaos.Fault{chaos.Freeze, chaos.Term}
	cfg.OnlyLeaders, cfg.Kills = true, 5
	cfg.Duration, cfg.KillEvery, cfg.Frozen = time.Hour, 50*time.Millisecond, 40*time.Millisecond
	report, err := run(t, cfg)
	if err != nil || !report.OK() {
		t.Fatalf("verdict %v, error %v", report.Verdict, err)
	}
	if c.led != 5 || len(report.Failures) != 5 {
		t.Errorf("%d failures, %d of the leader", len(report.Failures), c.led)
	}
	for i, want := range []chaos.Fault{chaos.Freeze, chaos.Term, chaos.Freeze, chaos.Term, chaos.Freeze} {
		if f := report.Failures[i]; f.Fault != want || c.faults[i] != want {
			t.Errorf("failure %d: %s reported, %s made, want %s", i+1, f.Fault, c.faults[i], want)
		}
	}
	if n := len(chaos.OfFault(report.Failures, chaos.Freeze)); n != 3 {
		t.Errorf("%d freezes", n)
	}
}

func TestConfig(t *testing.T) {
	if _, err := chaos.New(chaos.Config{}); err == nil {
		t.Error("no cluster: accepted")
	}
	cfg := config(newCluster(t))
	cfg.Duration = -1
	if _, err := chaos.New(cfg); err == nil {
		t.Error("negative duration: accepted")
	}
	cfg = config(newCluster(t))
	cfg.Faults = []chaos.Fault{"fire"}
	if _, err := chaos.New(cfg); err == nil {
		t.Error("unknown fault: accepted")
	}
}
