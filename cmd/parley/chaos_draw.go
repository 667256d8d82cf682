package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/chaos"
)

// Colours of the picture. Each piece of text ends with plain.
const (
	plain  = "\x1b[0m"
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
)

// draw returns the picture as lines that fit the terminal.
func (v *chaosView) draw(s chaos.Snapshot, width, height int) []string {
	state := fmt.Sprintf("%s of %s", clock(s.Elapsed), clock(v.cfg.Duration))
	switch {
	case v.ended:
		state = "ended after " + clock(s.Elapsed)
	case v.draining:
		state = "waiting until all mail is read"
	case s.Elapsed == 0:
		state = "connecting"
	}
	lines := []string{
		paint(bold, "parley chaos", width) + paint(plain, "  "+state, width-12),
		"",
	}
	lines = append(lines, drawMembers(s.Members, width)...)
	lines = append(lines, "")
	lines = append(lines, drawLoad(s, v.rates, width)...)
	lines = append(lines, "")
	room := max(height-len(lines)-3, 3)
	lines = append(lines, drawFailures(s.Failures, room, width)...)
	if v.troubles > 0 {
		lines = append(lines, "", paint(yellow, fmt.Sprintf("  %d troubles, the last: %s", v.troubles, v.trouble), width))
	}
	return lines
}

// drawMembers is one line per node.
func drawMembers(members []parley.Member, width int) []string {
	members = slices.Clone(members)
	slices.SortFunc(members, func(x, y parley.Member) int { return strings.Compare(x.ID, y.ID) })
	var lines []string
	for _, m := range members {
		role, colour := string(m.Role), plain
		switch {
		case !m.Reachable:
			role, colour = "down", red
		case m.Role == parley.RoleLeader:
			colour = green
		}
		line := fmt.Sprintf("  %-6s %-9s %-21s term %-5d applied %d", visible(m.ID), visible(role), visible(m.Client), m.Term, m.Applied)
		lines = append(lines, paint(colour, line, width))
	}
	return lines
}

// drawLoad is the counts, and the throughput of the last while.
func drawLoad(s chaos.Snapshot, rates []float64, width int) []string {
	v := s.Verdict
	bad := fmt.Sprintf("  duplicated %-9d reordered %-9d phantom %d", v.Duplicated, v.Reordered, v.Phantom)
	colour := plain
	if v.Duplicated+v.Reordered+v.Phantom > 0 {
		colour = red
	}
	room := min(max(width-16, 0), 60)
	recent := rates[max(0, len(rates)-room):]
	now := 0.0
	if n := len(recent); n > 0 {
		last := recent[max(0, n-4):]
		for _, r := range last {
			now += r / float64(len(last))
		}
	}
	return []string{
		paint(plain, fmt.Sprintf("  sent %-9d acknowledged %-9d delivered %d", v.Sent, v.Acknowledged, v.Delivered), width),
		paint(colour, bad, width),
		paint(plain, fmt.Sprintf("  %8.0f /s  %s", now, sparkline(recent)), width),
	}
}

// sparkline draws values as bars, the largest at full height.
func sparkline(values []float64) string {
	bars := []rune(" ▁▂▃▄▅▆▇█")
	top := 0.0
	for _, v := range values {
		top = max(top, v)
	}
	var b strings.Builder
	for _, v := range values {
		i := 0
		if v > 0 && top > 0 {
			i = 1 + int(v/top*float64(len(bars)-2)+0.5)
		}
		b.WriteRune(bars[i])
	}
	return b.String()
}

// drawFailures is one line for each of the latest failures: what happened to
// whom, and a bar as long as nobody could write, ten milliseconds to the step.
func drawFailures(failures []chaos.Failure, room, width int) []string {
	var lines []string
	if hidden := len(failures) - room; hidden > 0 {
		lines = append(lines, paint(dim, fmt.Sprintf("  … %d more", hidden+1), width))
		failures = failures[hidden+1:]
	}
	for _, f := range failures {
		line := fmt.Sprintf("  %-6s %-3d %6s  %-6s %-9s", f.Fault, f.Number, clock(f.At), visible(f.Node), leads(f))
		if !f.Closed {
			lines = append(lines, paint(yellow, line+" no write yet", width))
			continue
		}
		steps := min(int(f.Gap/(10*time.Millisecond)), max(width-52, 0))
		lines = append(lines, paint(plain, fmt.Sprintf("%s gap %8s  %s", line, short(f.Gap), strings.Repeat("▪", steps)), width))
	}
	return lines
}

// paint cuts text to the width and colours it.
func paint(colour, text string, width int) string {
	runes := []rune(text)
	if len(runes) > width {
		runes = runes[:max(width, 0)]
	}
	if colour == plain {
		return string(runes)
	}
	return colour + string(runes) + plain
}
