package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/parley-chat/parley/internal/chaos"
)

// picture returns where the run is shown, and whether that is a terminal in
// which it can be drawn. With --json, standard output is for the verdict only.
func (c *chaosFlags) picture() (out io.Writer, live bool) {
	out = c.stdout
	if c.json {
		out = c.stderr
	}
	f, ok := out.(*os.File)
	return out, ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// chaosView shows a run while it goes on: a picture in a terminal, otherwise a
// line per event. One goroutine does all the writing, from begin to end.
type chaosView struct {
	out    io.Writer
	live   bool
	cfg    chaos.Config
	run    *chaos.Run
	events chan chaos.Event // dropped when full: a slow terminal must not slow the run
	quit   chan struct{}
	done   sync.WaitGroup

	// Of the goroutine that writes.
	rates    []float64 // acknowledged per second, one per tick
	acked    int
	ticked   time.Time
	trouble  string
	troubles int
	draining bool
	ended    bool
	lines    int // of the picture on the screen
}

const chaosTick = 250 * time.Millisecond

func newChaosView(out io.Writer, live bool, cfg chaos.Config) *chaosView {
	return &chaosView{out: out, live: live, cfg: cfg, events: make(chan chaos.Event, 256), quit: make(chan struct{})}
}

// event takes note of an event.
func (v *chaosView) event(e chaos.Event) {
	select {
	case v.events <- e:
	default:
	}
}

func (v *chaosView) begin(run *chaos.Run) {
	v.run = run
	v.ticked = time.Now()
	if v.live {
		fmt.Fprint(v.out, "\x1b[?25l") // no cursor
	}
	v.done.Go(v.loop)
}

// end shows the last state and leaves it on the screen.
func (v *chaosView) end() {
	close(v.quit)
	v.done.Wait()
	if v.live {
		fmt.Fprint(v.out, "\x1b[?25h\n\n")
	}
}

func (v *chaosView) loop() {
	tick := time.NewTicker(chaosTick)
	defer tick.Stop()
	for {
		select {
		case e := <-v.events:
			v.note(e)
		case now := <-tick.C:
			if v.live {
				v.redraw(now)
			}
		case <-v.quit:
			for len(v.events) > 0 {
				v.note(<-v.events)
			}
			v.ended = true
			if v.live {
				v.redraw(time.Now())
			}
			return
		}
	}
}

// note shows an event or keeps it for the picture.
func (v *chaosView) note(e chaos.Event) {
	switch e.Kind {
	case chaos.EventTrouble:
		v.troubles++
		v.trouble = visible(e.Detail)
	case chaos.EventDrain:
		v.draining = true
	}
	if line := describeEvent(e); line != "" && !v.live {
		fmt.Fprintf(v.out, "%s  %s\n", clock(e.At), line)
	}
}

// describeEvent is an event in words.
func describeEvent(e chaos.Event) string {
	f := e.Failure
	switch e.Kind {
	case chaos.EventFailure:
		return fmt.Sprintf("%s %d: %s, %s", f.Fault, f.Number, visible(f.Node), leads(f))
	case chaos.EventGap:
		return fmt.Sprintf("%s %d: writing again after %s", f.Fault, f.Number, short(f.Gap))
	case chaos.EventRepair:
		return fmt.Sprintf("%s %d: %s mended", f.Fault, f.Number, visible(f.Node))
	case chaos.EventDrain:
		return "load ended, waiting until all mail is read"
	case chaos.EventTrouble:
		return visible(e.Detail)
	}
	return ""
}

func leads(f chaos.Failure) string {
	if f.Leader {
		return "leader"
	}
	return "follower"
}

// clock is a time since the beginning: 1:05.
func clock(d time.Duration) string {
	s := int(d / time.Second)
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// redraw draws the picture over the former one.
func (v *chaosView) redraw(now time.Time) {
	s := v.run.Snapshot()
	if d := now.Sub(v.ticked); d > 0 {
		v.rates = append(v.rates, float64(s.Verdict.Acknowledged-v.acked)/d.Seconds())
		v.acked, v.ticked = s.Verdict.Acknowledged, now
	}
	width, height := 80, 24
	if f, ok := v.out.(*os.File); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			width, height = w, h
		}
	}
	lines := v.draw(s, width, height)
	var b strings.Builder
	if v.lines > 1 {
		fmt.Fprintf(&b, "\x1b[%dA", v.lines-1)
	}
	b.WriteString("\r")
	b.WriteString(strings.Join(lines, "\x1b[K\n"))
	b.WriteString("\x1b[K\x1b[J")
	v.lines = len(lines)
	_, _ = io.WriteString(v.out, b.String())
}
