package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/parley-chat/parley/internal/chaos"
)

// chaosVerdict is the verdict as --json prints it.
type chaosVerdict struct {
	Sent         int                         `json:"sent"`
	Acknowledged int                         `json:"acknowledged"`
	Delivered    int                         `json:"delivered"`
	Lost         int                         `json:"lost"`
	Duplicated   int                         `json:"duplicated"`
	Reordered    int                         `json:"reordered"`
	Phantom      int                         `json:"phantom"`
	Kills        int                         `json:"kills"`
	Gap          *chaosGap                   `json:"gap_ms"`
	Elections    int                         `json:"elections"`
	Faults       map[chaos.Fault]*chaosFault `json:"faults"`
}

// chaosFault is what one kind of fault did.
type chaosFault struct {
	Count int       `json:"count"`
	Gap   *chaosGap `json:"gap_ms"`
}

// chaosGap is how long writing was interrupted, in milliseconds.
type chaosGap struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// gapOf sums up the gaps after failures of leaders; nil if there were none.
func gapOf(failures []chaos.Failure) *chaosGap {
	q, ok := chaos.LeaderGaps(failures)
	if !ok {
		return nil
	}
	return &chaosGap{P50: milliseconds(q.P50), P99: milliseconds(q.P99), Max: milliseconds(q.Max)}
}

func newChaosVerdict(report chaos.Report) chaosVerdict {
	v := report.Verdict
	out := chaosVerdict{
		Sent: v.Sent, Acknowledged: v.Acknowledged, Delivered: v.Delivered,
		Lost: v.Lost, Duplicated: v.Duplicated, Reordered: v.Reordered, Phantom: v.Phantom,
		Kills: len(report.Failures), Gap: gapOf(report.Failures), Elections: report.Elections,
		Faults: make(map[chaos.Fault]*chaosFault),
	}
	for _, fault := range chaos.Faults() {
		if of := chaos.OfFault(report.Failures, fault); len(of) > 0 {
			out.Faults[fault] = &chaosFault{Count: len(of), Gap: gapOf(of)}
		}
	}
	return out
}

// verdict prints how the run ended, as far as it came.
func (c *chaosFlags) verdict(report chaos.Report, err error) error {
	out := newChaosVerdict(report)
	if c.json {
		return printJSON(c.stdout, out)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "sent          %10d\nacknowledged  %10d\ndelivered     %10d\n", out.Sent, out.Acknowledged, out.Delivered)
	fmt.Fprintf(&b, "lost          %10d\nduplicated    %10d\nreordered     %10d\nphantom       %10d\n", out.Lost, out.Duplicated, out.Reordered, out.Phantom)
	fmt.Fprintf(&b, "elections     %10d\n", out.Elections)
	for _, fault := range chaos.Faults() {
		of := chaos.OfFault(report.Failures, fault)
		if len(of) == 0 {
			continue
		}
		fmt.Fprintf(&b, "%-13s %10d", fault, len(of))
		if q, ok := chaos.LeaderGaps(of); ok {
			fmt.Fprintf(&b, "   write gap if a leader: p50 %s, p99 %s, max %s", short(q.P50), short(q.P99), short(q.Max))
		}
		b.WriteString("\n")
	}
	switch {
	case err != nil:
		b.WriteString("NO VERDICT\n")
	case report.OK():
		b.WriteString("OK: every promise was kept\n")
	default:
		b.WriteString("FAILED\n")
	}
	_, err = fmt.Fprint(c.stdout, b.String())
	return err
}

// milliseconds rounds to tenths.
func milliseconds(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond).Microseconds()) / 1000
}

// short is a duration for people.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
