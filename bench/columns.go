package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/parley-chat/parley/bench/internal/cpu"
	"github.com/parley-chat/parley/bench/internal/peers"
	"github.com/parley-chat/parley/bench/internal/report"
	"github.com/parley-chat/parley/internal/bench"
)

// messageBytes is the size of messages where it is not what is measured.
const messageBytes = 100

// column is one load that all peers are put under.
type column struct {
	id, title       string
	senders, window int  // connections, and messages under way on each
	push            bool // until a reader of the one mailbox has been shown the message
	follower        bool // push: the reader is at a node that does not lead
	rate            float64
	kill            bool // of the leader, nothing else
	smoke           bool // part of the short form
}

// rated reports whether a column is about a rate; the others are about a time.
func (col column) rated() bool { return !col.push && !col.kill }

func columns() []column {
	rate := func(id, title string, senders, window int, smoke bool) column {
		return column{id: id, title: title, senders: senders, window: window, smoke: smoke}
	}
	return []column{
		rate("one", "1 client", 1, 1, true),
		rate("loop64", "64 closed loop", 64, 1, true),
		rate("loop256", "256 closed loop", 256, 1, false),
		rate("conn1", "1 conn × 256", 1, 256, false),
		rate("conn16", "16 conn × 256", 16, 256, true),
		{id: "push", title: "push, reader on the leader", senders: 1, window: 1, push: true},
		{id: "follower", title: "push, reader on a follower, 5/s", senders: 1, window: 1, push: true, follower: true, rate: 5},
		{id: "kill", title: "leader kill -9 → next ack", kill: true},
	}
}

// outcome is what one run of a load gave; NaN: not measured.
type outcome struct {
	rate          float64 // per second
	p50, p99      float64 // milliseconds
	problem       string
	done          int64
	others        float64 // share of the machine that other programs used
	othersAreSeen bool
}

func failed(err error) outcome {
	return outcome{rate: math.NaN(), p50: math.NaN(), p99: math.NaN(), problem: err.Error()}
}

func (o outcome) String() string {
	text := fmt.Sprintf("%s/s, p50 %s ms, p99 %s ms", report.Number(o.rate), report.Number(o.p50), report.Number(o.p99))
	if math.IsNaN(o.rate) {
		text = report.Number(o.p50) + " ms"
	}
	if o.othersAreSeen {
		text += fmt.Sprintf(", others used %.0f %%", 100*o.others)
	}
	if o.problem != "" {
		text += "; problem: " + o.problem
	}
	return text
}

// measure puts a cluster under the load of a column.
func (col column) measure(ctx context.Context, c *peers.Cluster, t timing) ([]outcome, error) {
	if col.kill {
		return failovers(ctx, c, t.kills)
	}
	cfg := bench.Config{
		Mode: bench.Send, Senders: col.senders, Window: col.window, Size: messageBytes, Users: 64,
		Rate: col.rate, Warmup: t.warmup, Duration: t.duration,
	}
	if col.rate > 0 { // slow, and has to make enough messages for a median
		cfg.Duration = max(t.duration, 5*time.Second)
	}
	var err error
	if cfg.Dial, err = c.Dial(ctx, col.window); err != nil {
		return nil, err
	}
	if col.push {
		cfg.Mode, cfg.Users = bench.E2E, 1
		if cfg.DialReader, err = c.DialReader(ctx, !col.follower); err != nil {
			return nil, err
		}
	}
	o, err := runLoad(ctx, c, cfg)
	if !col.rated() {
		o.rate = math.NaN()
	}
	return []outcome{o}, err
}

// runLoad puts a load on a cluster and watches what else the machine does.
func runLoad(ctx context.Context, c *peers.Cluster, cfg bench.Config) (outcome, error) {
	meter := cpu.Start(c.PIDs()...)
	r, err := bench.Run(ctx, cfg)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{rate: r.Rate, p50: milliseconds(r.Latency.P50), p99: milliseconds(r.Latency.P99), done: r.Done}
	o.others, o.othersAreSeen = meter.Others()
	if r.Errors > 0 {
		o.problem = fmt.Sprintf("%d of %d failed", r.Errors, r.Done+r.Errors)
		if len(r.Problems) > 0 {
			o.problem += ": " + r.Problems[0]
		}
	}
	return o, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
