package main

import (
	"bufio"
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley/bench/internal/peers"
)

// span is a time during which something went on.
type span struct{ from, to time.Time }

// sample is one message: when it was begun and what it took.
type sample struct {
	begun time.Time
	took  time.Duration
}

// seen is the latencies of messages by whether a checkpoint was being written.
type seen struct {
	without, during []time.Duration
	checkpoints     int
}

// watchCheckpoints puts a load on a cluster and sorts its messages.
func (m *scale) watchCheckpoints(ctx context.Context, c *peers.Cluster, users int) (seen, error) {
	cfg := full(users)
	cfg.Size, cfg.Rate = 1<<10, checkpointRate
	cfg.Warmup, cfg.Duration = time.Second, m.checkpoint
	var mu sync.Mutex
	var samples []sample
	cfg.Observe = func(begun time.Time, took time.Duration) {
		mu.Lock()
		samples = append(samples, sample{begun, took})
		mu.Unlock()
	}
	var err error
	if cfg.Dial, err = c.Dial(ctx, cfg.Window); err != nil {
		return seen{}, err
	}
	begun := time.Now()
	o, err := runLoad(ctx, c, cfg)
	if err != nil {
		return seen{}, err
	}
	m.s.Neighbour("Parley", o.others, o.othersAreSeen)
	var spans []span
	for _, n := range c.Nodes() {
		of, err := checkpointSpans(n.Log, begun)
		if err != nil {
			return seen{}, err
		}
		spans = append(spans, of...)
	}
	out := sortSamples(samples, spans)
	m.say("  %s, %d checkpoints", o, out.checkpoints)
	if out.checkpoints == 0 {
		return out, errors.New("no checkpoint was written meanwhile, or the log does not tell of it")
	}
	return out, nil
}

// sortSamples tells messages apart by whether any part of their time lies in a span.
func sortSamples(samples []sample, spans []span) seen {
	out := seen{checkpoints: len(spans)}
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	merged := merge(spans)
	for _, s := range samples {
		end := s.begun.Add(s.took)
		// The first span that ends after the message was begun.
		i, _ := slices.BinarySearchFunc(merged, s.begun, func(sp span, t time.Time) int { return sp.to.Compare(t) })
		if i < len(merged) && merged[i].from.Before(end) {
			out.during = append(out.during, s.took)
		} else {
			out.without = append(out.without, s.took)
		}
	}
	return out
}

// merge makes one of spans that overlap. They are sorted.
func merge(spans []span) (out []span) {
	for _, s := range spans {
		if n := len(out); n > 0 && !s.from.After(out[n-1].to) {
			if s.to.After(out[n-1].to) {
				out[n-1].to = s.to
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// checkpointSpans reads from a node's log when it wrote checkpoints since a time.
func checkpointSpans(file string, since time.Time) (spans []span, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if s, ok := checkpointSpan(lines.Text()); ok && s.to.After(since) {
			spans = append(spans, s)
		}
	}
	return spans, lines.Err()
}

// checkpointSpan reads a line like "time=… level=DEBUG msg=checkpoint … took=31ms",
// which is written at the end of a checkpoint.
func checkpointSpan(line string) (span, bool) {
	fields := make(map[string]string)
	for _, f := range strings.Fields(line) {
		if key, value, ok := strings.Cut(f, "="); ok {
			fields[key] = value
		}
	}
	end, errTime := time.Parse(time.RFC3339Nano, fields["time"])
	took, errTook := time.ParseDuration(fields["took"])
	if fields["msg"] != "checkpoint" || errTime != nil || errTook != nil {
		return span{}, false
	}
	return span{end.Add(-took), end}, true
}

// missing is a figure that was not measured.
func missing() float64 { return math.NaN() }
