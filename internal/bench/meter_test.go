package bench

import (
	"context"
	"errors"
	"testing"
	"time"
)

func near(got, want time.Duration) bool {
	d := got - want
	return max(d, -d) <= want/500+unit
}

// TestPercentiles feeds the meter known latencies: 1 to 1,000 ms, spread over the
// shards.
func TestPercentiles(t *testing.T) {
	m := newMeter(time.Second, 5*time.Second)
	at := 2 * time.Second
	for i := range 1000 {
		m.shard(i).completed(kindSend, at, at+time.Duration(i+1)*time.Millisecond)
	}
	r := m.report()
	want := Latency{
		P50: 500 * time.Millisecond, P90: 900 * time.Millisecond, P99: 990 * time.Millisecond,
		P999: 999 * time.Millisecond, Max: time.Second,
	}
	for _, c := range []struct {
		name      string
		got, want time.Duration
	}{
		{"p50", r.Latency.P50, want.P50},
		{"p90", r.Latency.P90, want.P90},
		{"p99", r.Latency.P99, want.P99},
		{"p999", r.Latency.P999, want.P999},
		{"max", r.Latency.Max, want.Max},
	} {
		if !near(c.got, c.want) {
			t.Errorf("%s is %v, want %v", c.name, c.got, c.want)
		}
	}
	if r.Done != 1000 || r.Rate != 250 || r.Elapsed != 4*time.Second || r.Errors != 0 {
		t.Errorf("%d done in %v, rate %v, %d errors", r.Done, r.Elapsed, r.Rate, r.Errors)
	}
}

// TestMeasuredPart: the rate is about what ends in the measured part, latencies
// and errors about what begins in it.
func TestMeasuredPart(t *testing.T) {
	m := newMeter(time.Second, 2*time.Second)
	s := m.shard(0)
	for _, start := range []int{500, 850, 900, 1000, 1400, 1900, 2000} {
		s.completed(kindSend, time.Duration(start)*time.Millisecond, time.Duration(start+200)*time.Millisecond)
		s.failed(time.Duration(start) * time.Millisecond)
	}
	s.omitted(kindSend, 1500*time.Millisecond)
	s.omitted(kindSend, 2500*time.Millisecond)
	r := m.report()
	if r.Done != 4 { // those that ended at 1050, 1100, 1200 and 1600
		t.Errorf("%d done, want 4", r.Done)
	}
	if r.Errors != 3 { // those of 1000, 1400 and 1900
		t.Errorf("%d errors, want 3", r.Errors)
	}
	if r.Behind != 1 || !near(r.Latency.Max, 500*time.Millisecond) || !near(r.Latency.P50, 200*time.Millisecond) {
		t.Errorf("%d behind, latencies %+v", r.Behind, r.Latency)
	}
	if n := s.total[kindSend].TotalCount(); n != 4 {
		t.Errorf("%d latencies, want 4", n)
	}
}

// TestPoints: no second counts anything twice, and warming up is not in the series.
func TestPoints(t *testing.T) {
	m := newMeter(time.Second, 3*time.Second)
	var told []Point
	progress := func(p Point) { told = append(told, p) }
	m.shard(0).completed(kindSend, 0, time.Millisecond)
	m.point(0, time.Second, progress)
	for range 10 {
		m.shard(0).completed(kindSend, time.Second, 1100*time.Millisecond)
		m.shard(1).completed(kindRead, time.Second, 1200*time.Millisecond)
	}
	m.point(time.Second, 2*time.Second, progress)
	m.shard(1).completed(kindSend, 2*time.Second, 3*time.Second) // at the end, no more
	m.point(2*time.Second, 3*time.Second, progress)
	if len(told) != 3 || told[0].T != 0 || told[0].Rate != 1 {
		t.Errorf("told %+v", told)
	}
	if len(m.series) != 2 {
		t.Fatalf("series %+v", m.series)
	}
	p := m.series[0]
	if p.T != time.Second || p.Rate != 20 || !near(p.P50, 100*time.Millisecond) || !near(p.P99, 200*time.Millisecond) {
		t.Errorf("first point %+v", p)
	}
	if p := m.series[1]; p.T != 2*time.Second || p.Rate != 0 || p.P99 != 0 {
		t.Errorf("second point %+v", p)
	}
}

func TestTag(t *testing.T) {
	text := "0123456789abcdef-and-more"
	for _, want := range []tag{{0, 0, 1}, {MaxSenders - 1, MaxWindow - 1, 1<<numberBits - 1}} {
		body := want.body(text)
		got, ok := parseTag(body)
		if !ok || got != want || len(body) != len(text) {
			t.Errorf("%+v became %q and %+v", want, body, got)
		}
	}
	for _, body := range []string{"", "ready?", "0123456789abcde", "zzzzzzzzzzzzzzzz"} {
		if got, ok := parseTag(body); ok {
			t.Errorf("%q became %+v", body, got)
		}
	}
}

// TestLateDelivery: a message shown after its command failed counts for nothing,
// least of all for the next command in its place.
func TestLateDelivery(t *testing.T) {
	r := &run{cfg: Config{Mode: E2E}, m: newMeter(0, time.Hour)}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	s := &sender{r: r, shard: r.m.shard(0), free: make(chan *op, 2), end: ended}
	o := &op{s: s}
	begin := func() uint64 {
		o.state.Store(o.state.Load()&^bits + serial)
		return o.number()
	}
	former := begin()
	if first, over := o.mark(former, answered); !first || over {
		t.Fatal("answered only")
	}
	o.abandon()
	present := begin()
	o.delivered(former, 1)
	if len(s.free) != 0 || s.shard.done[kindSend] != 0 || s.shard.errors != 1 {
		t.Errorf("a late delivery counted: %d done, %d errors", s.shard.done[kindSend], s.shard.errors)
	}
	o.delivered(present, 1)
	o.delivered(present, 2) // shown again
	if len(s.free) != 0 || s.shard.done[kindSend] != 1 {
		t.Errorf("%d done, want 1", s.shard.done[kindSend])
	}
	if first, over := o.mark(present, answered); !first || !over {
		t.Error("the command is over, and does not say so")
	}
	refused := begin()
	o.fail(errors.New("refused"))
	o.delivered(refused, 1)
	if len(s.free) != 1 || s.shard.done[kindSend] != 1 || s.shard.errors != 2 {
		t.Errorf("%d times free, %d done, %d errors", len(s.free), s.shard.done[kindSend], s.shard.errors)
	}
}
