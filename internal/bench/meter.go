package bench

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// kind tells commands apart whose latencies are kept apart.
type kind int

const (
	kindSend kind = iota
	kindRead
	kinds
)

// Histograms count microseconds, up to an hour, to three digits.
const (
	unit    = time.Microsecond
	longest = int64(time.Hour / unit)
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest, 3) }

// meter is the run's clock and takes down what happens. Its times are since the
// beginning of the load.
type meter struct {
	epoch  time.Time
	begun  atomic.Int64  // when the load began, a time.Duration since epoch
	from   time.Duration // the measured part
	to     atomic.Int64  // its end, a time.Duration; moved forward by an interruption
	shards []*shard
	series []Point // of follow

	observe func(begun time.Time, took time.Duration) // may be nil
}

// shard takes down a part of the senders' results, so that they seldom wait for
// each other.
type shard struct {
	m *meter

	mu     sync.Mutex
	recent *hdrhistogram.Histogram        // completed since the last point, and before the end
	total  [kinds]*hdrhistogram.Histogram // begun within the measured part
	done   [kinds]int64                   // completed within the measured part
	errors int64
	behind int64
}

func newMeter(from, to time.Duration) *meter {
	m := &meter{epoch: time.Now(), from: from}
	m.to.Store(int64(to))
	for range 2 * runtime.GOMAXPROCS(0) {
		s := &shard{m: m, recent: newHistogram()}
		for k := range s.total {
			s.total[k] = newHistogram()
		}
		m.shards = append(m.shards, s)
	}
	return m
}

// shard returns the one for the nth sender.
func (m *meter) shard(n int) *shard { return m.shards[n%len(m.shards)] }

// begin says that the load begins now.
func (m *meter) begin() { m.begun.Store(int64(time.Since(m.epoch))) }

func (m *meter) now() time.Duration { return time.Since(m.epoch) - time.Duration(m.begun.Load()) }

func (m *meter) end() time.Duration { return time.Duration(m.to.Load()) }

// cut ends the measured part now, if it is not over.
func (m *meter) cut() {
	now := m.now()
	if now < m.end() {
		m.to.Store(int64(now))
	}
}

// measured reports whether t is in the measured part.
func (m *meter) measured(t time.Duration) bool { return t >= m.from && t < m.end() }

// count returns what a histogram counts for d.
func count(d time.Duration) int64 { return min(int64(d/unit), longest) }

// completed takes down a command that was answered.
func (s *shard) completed(k kind, start, end time.Duration) {
	s.m.tell(start, end)
	v := count(end - start)
	s.mu.Lock()
	defer s.mu.Unlock()
	if end < s.m.end() {
		_ = s.recent.RecordValue(v) // fails for values out of range only
	}
	if s.m.measured(start) {
		_ = s.total[k].RecordValue(v)
	}
	if s.m.measured(end) {
		s.done[k]++
	}
}

// tell tells the observer of a command that was answered.
func (m *meter) tell(start, end time.Duration) {
	if m.observe != nil && m.measured(end) {
		m.observe(m.epoch.Add(time.Duration(m.begun.Load())+start), end-start)
	}
}

// failed takes down a command that was not.
func (s *shard) failed(start time.Duration) {
	if !s.m.measured(start) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors++
}

// omitted takes down a command that was due and never begun.
func (s *shard) omitted(k kind, due time.Duration) {
	if !s.m.measured(due) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behind++
	_ = s.total[k].RecordValue(count(s.m.end() - due))
}

// follow makes a point per second until stop is closed, and one of the rest.
func (m *meter) follow(stop <-chan struct{}, progress func(Point)) {
	var last time.Duration
	next := m.from % time.Second
	for {
		if next <= last {
			next += time.Second
		}
		t := time.NewTimer(next - m.now())
		select {
		case <-t.C:
			last = m.point(last, m.now(), progress)
			next = last - (last-m.from)%time.Second
		case <-stop:
			t.Stop()
			if end := m.end(); end-last > time.Second/10 || len(m.series) == 0 {
				m.point(last, end, progress)
			}
			return
		}
	}
}

// point sums up the time from last to now.
func (m *meter) point(last, now time.Duration, progress func(Point)) time.Duration {
	h := newHistogram()
	for _, s := range m.shards {
		s.mu.Lock()
		h.Merge(s.recent)
		s.recent.Reset()
		s.mu.Unlock()
	}
	p := Point{T: now - m.from, P50: quantile(h, 50), P99: quantile(h, 99)}
	if d := now - last; d > 0 {
		p.Rate = float64(h.TotalCount()) / d.Seconds()
	}
	if last >= m.from {
		m.series = append(m.series, p)
	} else {
		p.T = min(p.T, 0)
	}
	if progress != nil {
		progress(p)
	}
	return now
}

// quantile is 0 for an empty histogram.
func quantile(h *hdrhistogram.Histogram, percent float64) time.Duration {
	return time.Duration(h.ValueAtPercentile(percent)) * unit
}

func latency(h *hdrhistogram.Histogram) Latency {
	return Latency{
		P50: quantile(h, 50), P90: quantile(h, 90), P99: quantile(h, 99), P999: quantile(h, 99.9),
		Max: time.Duration(h.Max()) * unit,
	}
}

// report sums up the run, after it.
func (m *meter) report() Report {
	r := Report{Elapsed: max(0, m.end()-m.from), Series: m.series}
	all := newHistogram()
	var parts [kinds]Part
	for k := range kinds {
		h := newHistogram()
		var done int64
		for _, s := range m.shards {
			s.mu.Lock()
			h.Merge(s.total[k])
			done += s.done[k]
			s.mu.Unlock()
		}
		parts[k] = Part{Rate: perSecond(done, r.Elapsed), Latency: latency(h)}
		r.Done += done
		all.Merge(h)
	}
	for _, s := range m.shards {
		s.mu.Lock()
		r.Errors += s.errors
		r.Behind += s.behind
		s.mu.Unlock()
	}
	r.Rate, r.Latency = perSecond(r.Done, r.Elapsed), latency(all)
	r.Sends, r.Reads = &parts[kindSend], &parts[kindRead]
	return r
}

func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}
