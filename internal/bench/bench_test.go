package bench_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/bench"
	"github.com/parley-chat/parley/parleytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func (w *world) wantAll(r bench.Report) {
	w.t.Helper()
	if r.Done == 0 || r.Errors != 0 || r.Behind != 0 || r.Lost != 0 || len(r.Problems) > 0 {
		w.t.Errorf("%d done, %d errors, %d behind, %d connections lost, %q", r.Done, r.Errors, r.Behind, r.Lost, r.Problems)
	}
	var n float64
	last := time.Duration(0)
	for _, p := range r.Series {
		n += p.Rate * (p.T - last).Seconds()
		last = p.T
	}
	if len(r.Series) == 0 || n < 0.5*float64(r.Done) || n > 1.5*float64(r.Done) {
		w.t.Errorf("the series %+v makes %.0f commands, but there were %d", r.Series, n, r.Done)
	}
}

func TestSend(t *testing.T) {
	w := newWorld(t, slow{})
	var points int
	r := w.run(bench.Config{
		Mode: bench.Send, Senders: 3, Window: 4, Users: 5, Duration: 300 * time.Millisecond,
		Progress: func(bench.Point) { points++ },
	})
	w.wantAll(r)
	if n := w.sends.Load(); n < r.Done || n > r.Done+12 || points == 0 {
		t.Errorf("%d sends for %d done, told of %d points", n, r.Done, points)
	}
	if r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P99 || r.Latency.P99 > r.Latency.Max || r.Sends != nil {
		t.Errorf("latencies %+v", r.Latency)
	}
}

// TestSendSlowly: with 40 ms for an outcome, each of 6 places makes 25 commands
// per second at most.
func TestSendSlowly(t *testing.T) {
	const delay = 40 * time.Millisecond
	w := newWorld(t, slow{delay: func(parley.Command) time.Duration { return delay }})
	r := w.run(bench.Config{Mode: bench.Send, Senders: 3, Window: 2, Users: 1, Warmup: 100 * time.Millisecond, Duration: 800 * time.Millisecond})
	w.wantAll(r)
	if r.Latency.P50 < delay || r.Latency.P50 > 10*delay {
		t.Errorf("p50 is %v with outcomes after %v", r.Latency.P50, delay)
	}
	if r.Rate > 6/delay.Seconds()*1.01 || r.Elapsed != 800*time.Millisecond {
		t.Errorf("%v per second in %v", r.Rate, r.Elapsed)
	}
	if most := w.sends.Load(); r.Done > most || r.Done < most/3 {
		t.Errorf("%d done of %d", r.Done, most)
	}
}

// TestSlowFew: one command in twenty is slow; p99 and above say so, p50 does not.
func TestSlowFew(t *testing.T) {
	const delay = 300 * time.Millisecond
	var n atomic.Int64
	w := newWorld(t, slow{delay: func(c parley.Command) time.Duration {
		if _, ok := c.(parley.Send); ok && n.Add(1)%20 == 0 {
			return delay
		}
		return 0
	}})
	r := w.run(bench.Config{Mode: bench.Send, Senders: 2, Window: 100, Users: 1, Rate: 200, Duration: time.Second})
	if r.Latency.P50 >= delay || r.Latency.P99 < delay {
		t.Errorf("p50 %v, p99 %v with one in twenty after %v", r.Latency.P50, r.Latency.P99, delay)
	}
	if n := w.sends.Load() + r.Behind; n != 200 || r.Errors > 0 {
		t.Errorf("%d sends were due in a second at 200 per second, %d errors", n, r.Errors)
	}
}

// TestStall: at a fixed rate a stall is in the latencies of all commands that
// were due while it lasted, not of the one that ran into it.
func TestStall(t *testing.T) {
	const stall = 600 * time.Millisecond
	var n, free atomic.Int64
	began := time.Now()
	w := newWorld(t, slow{delay: func(c parley.Command) time.Duration {
		if _, ok := c.(parley.Send); !ok {
			return 0
		}
		if n.Add(1) == 50 {
			free.Store(int64(time.Since(began) + stall))
		}
		return time.Duration(free.Load()) - time.Since(began)
	}})
	r := w.run(bench.Config{Mode: bench.Send, Senders: 1, Window: 1, Users: 1, Rate: 100, Duration: 2 * time.Second})
	if n := w.sends.Load() + r.Behind; n != 200 || r.Errors > 0 { // all were due, none was left out
		t.Errorf("%d sends and %d errors, want 200 and none", n, r.Errors)
	}
	// 60 of 200 were due during the stall: p90 waited for more than half of it.
	if r.Latency.P90 < stall/2 || r.Latency.P99 < stall*9/10 {
		t.Errorf("latencies %+v do not show the stall of %v", r.Latency, stall)
	}
}

// TestBehind: what the cluster does not keep up with is counted, and counts.
func TestBehind(t *testing.T) {
	const delay = 250 * time.Millisecond
	w := newWorld(t, slow{delay: func(parley.Command) time.Duration { return delay }})
	r := w.run(bench.Config{Mode: bench.Send, Senders: 1, Window: 1, Users: 1, Rate: 100, Duration: time.Second})
	if sent := w.sends.Load(); sent+r.Behind != 100 || sent > 4 || r.Errors != 0 {
		t.Errorf("%d sent, %d behind, %d errors; want 100 in all", sent, r.Behind, r.Errors)
	}
	// Those that were due had waited from 10 ms to a second.
	if r.Latency.P50 < 350*time.Millisecond || r.Latency.Max < 900*time.Millisecond {
		t.Errorf("latencies %+v", r.Latency)
	}
}

// TestMailboxesAreEmptied: there is room for 4,000 messages and 12,000 come.
func TestMailboxesAreEmptied(t *testing.T) {
	w := newWorld(t, slow{})
	w.fake.SetLimits(parleytest.Limits{MailboxMessages: 4000})
	r := w.run(bench.Config{Mode: bench.Send, Senders: 2, Window: 32, Users: 1, Rate: 12_000, Duration: time.Second})
	if r.Errors > 0 || len(r.Problems) > 0 {
		t.Errorf("%d errors, %q", r.Errors, r.Problems)
	}
	if w.sends.Load() < 6000 {
		t.Errorf("only %d messages: that proves nothing", w.sends.Load())
	}
}

func TestE2E(t *testing.T) {
	const delay = 20 * time.Millisecond
	w := newWorld(t, slow{push: delay})
	r := w.run(bench.Config{Mode: bench.E2E, Senders: 3, Window: 2, Users: 2, Size: bench.MinE2EBytes, Duration: 400 * time.Millisecond})
	w.wantAll(r)
	if r.Latency.P50 < delay {
		t.Errorf("p50 is %v with pushes that take %v", r.Latency.P50, delay)
	}
	if n := w.sends.Load() - 2; n < r.Done || n > r.Done+6 { // each reader was shown one first
		t.Errorf("%d sends for %d done", n, r.Done)
	}
}

// TestE2ENeverShown: messages that are acknowledged and not shown are errors, and
// do not come to light as a low rate only.
func TestE2ENeverShown(t *testing.T) {
	var n atomic.Int64
	w := newWorld(t, slow{show: func(m parley.Message) bool {
		return len(m.Body) < bench.MinE2EBytes || n.Add(1)%10 != 0
	}})
	r := w.run(bench.Config{
		Mode: bench.E2E, Senders: 1, Window: 3, Users: 1,
		Duration: 500 * time.Millisecond, Patience: 500 * time.Millisecond,
	})
	if r.Errors != 3 || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "not shown in time (3 times)") {
		t.Errorf("%d errors, %q; three places were lost", r.Errors, r.Problems)
	}
}

func TestMixed(t *testing.T) {
	w := newWorld(t, slow{})
	r := w.run(bench.Config{Mode: bench.Mixed, Senders: 2, Window: 5, Users: 5, Duration: 300 * time.Millisecond})
	w.wantAll(r)
	sends, reads := w.sends.Load(), w.inboxes.Load()
	if sends < 4*(reads-2) || sends > 4*(reads+2) || sends+reads < r.Done {
		t.Errorf("%d sends and %d reads", sends, reads)
	}
	if r.Sends == nil || r.Reads == nil || r.Reads.Latency.P50 <= 0 || r.Reads.Rate <= 0 || r.Sends.Rate < 3*r.Reads.Rate {
		t.Errorf("sends %+v, reads %+v", r.Sends, r.Reads)
	}
}

func TestList(t *testing.T) {
	w := newWorld(t, slow{})
	r := w.run(bench.Config{Mode: bench.List, Senders: 2, Window: 2, Users: 25, Page: 10, Pattern: "^bench-", Duration: 300 * time.Millisecond})
	w.wantAll(r)
	if len(w.afters) != 3 || w.sends.Load() != 0 { // 25 users make 3 pages
		t.Errorf("asked after %v, %d sends", w.afters, w.sends.Load())
	}
}

func TestIdle(t *testing.T) {
	w := newWorld(t, slow{})
	memory := int64(1000)
	r := w.run(bench.Config{
		Mode: bench.Idle, Senders: 20, Duration: 50 * time.Millisecond,
		Memory: func(context.Context) ([]bench.Memory, error) {
			memory *= 2
			return []bench.Memory{{Node: "n1", Bytes: memory}}, nil
		},
	})
	w.wantAll(r)
	if r.Opened != 20 || r.Stayed != 20 || r.Done != 20 || len(w.conns) != 20 {
		t.Errorf("%d opened, %d stayed, %d done, %d accepted", r.Opened, r.Stayed, r.Done, len(w.conns))
	}
	if len(r.Before) != 1 || r.Before[0].Bytes != 2000 || len(r.After) != 1 || r.After[0].Bytes != 4000 {
		t.Errorf("memory before %v, after %v", r.Before, r.After)
	}
}

// TestIdleLost: a connection that was lost has not stayed, though there is
// another one in its place.
func TestIdleLost(t *testing.T) {
	w := newWorld(t, slow{})
	var connected atomic.Int64
	cut := func(yes bool) {
		if !yes || connected.Add(1) != 5 {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.conns[1].Close()
		w.conns[3].Close()
	}
	r, err := bench.Run(t.Context(), bench.Config{
		Mode: bench.Idle, Senders: 5, Duration: time.Second,
		Dial: func(tell func(bool)) (bench.Client, error) {
			return w.dial(func(yes bool) { tell(yes); cut(yes) })
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Opened != 5 || r.Stayed != 3 || r.Lost != 2 {
		t.Errorf("%d opened, %d stayed, %d lost", r.Opened, r.Stayed, r.Lost)
	}
}

// TestErrors: refusals are counted and told of, and are not completed commands.
func TestErrors(t *testing.T) {
	w := newWorld(t, slow{})
	w.fake.SetLimits(parleytest.Limits{BodyBytes: 10})
	r, err := bench.Run(t.Context(), bench.Config{Dial: w.dial, Senders: 1, Window: 4, Users: 1, Size: 11, Duration: 300 * time.Millisecond})
	w.checkClean()
	if err == nil || !strings.Contains(err.Error(), "nothing was answered: send: body too large") {
		t.Errorf("error %v", err)
	}
	if r.Done != 0 || r.Errors != w.sends.Load() || r.Errors < 4 || r.Errors > 16 || len(r.Problems) != 1 {
		t.Errorf("%d done, %d errors of %d sends, %q", r.Done, r.Errors, w.sends.Load(), r.Problems)
	}
}

// TestInterrupted: Ctrl-C ends the load, and the users and sessions go all the same.
func TestInterrupted(t *testing.T) {
	for _, mode := range bench.Modes() {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, slow{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			time.AfterFunc(300*time.Millisecond, cancel)
			r, err := bench.Run(ctx, bench.Config{Dial: w.dial, Mode: mode, Senders: 2, Window: 2, Users: 2, Duration: time.Minute})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			if mode != bench.Idle && (r.Done == 0 || r.Elapsed <= 0 || r.Elapsed > 30*time.Second) || r.Errors > 0 {
				t.Errorf("%d done in %v, %d errors", r.Done, r.Elapsed, r.Errors)
			}
			w.checkClean()
		})
	}
}

// TestInterruptedEarly ends the run while its users are being made.
func TestInterruptedEarly(t *testing.T) {
	w := newWorld(t, slow{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var n atomic.Int64
	w.fake.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.CreateUser); ok && n.Add(1) == 3 {
			cancel()
		}
		return parleytest.Fault{}
	})
	_, err := bench.Run(ctx, bench.Config{Dial: w.dial, Users: 2000})
	if !errors.Is(err, context.Canceled) || n.Load() == 2000 {
		t.Errorf("error %v after %d users", err, n.Load())
	}
	w.checkClean()
}

func TestConfig(t *testing.T) {
	dial := func(func(bool)) (bench.Client, error) { return nil, errors.New("nobody there") }
	for _, cfg := range []bench.Config{
		{},
		{Dial: dial, Mode: "fast"},
		{Dial: dial, Senders: -1},
		{Dial: dial, Senders: bench.MaxSenders + 1},
		{Dial: dial, Window: bench.MaxWindow + 1},
		{Dial: dial, Mode: bench.E2E, Size: bench.MinE2EBytes - 1},
		{Dial: dial, Rate: -1},
		{Dial: dial, Duration: -1},
	} {
		if _, err := bench.Run(t.Context(), cfg); err == nil || !strings.HasPrefix(err.Error(), "bench: ") {
			t.Errorf("%+v: error %v", cfg, err)
		}
	}
	if _, err := bench.Run(t.Context(), bench.Config{Dial: dial}); err == nil || err.Error() != "nobody there" {
		t.Errorf("without a cluster: %v", err)
	}
}
