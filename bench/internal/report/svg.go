package report

import (
	"bytes"
	"encoding/xml"
	"fmt"

	"github.com/parley-chat/parley/bench/internal/stats"
)

// The charts are bars or lines with whiskers, nothing more. They are written by hand: it
// takes less than the libraries for it ask for, which draw text with fonts of their
// own, and the same figures give the same bytes, so that a change shows in a diff.

// panel is a set of bars with a scale of its own.
type panel struct {
	title string
	bars  []bar
}

type bar struct {
	label string
	ours  bool
	s     stats.Spread
}

// draw draws the chart of a table.
func (t Table) draw() []byte {
	columns := t.Chart.Columns
	if columns == nil {
		for i := range t.Columns {
			columns = append(columns, i)
		}
	}
	if t.Chart.X != "" {
		return t.drawLines(columns)
	}
	var panels []panel
	for _, j := range columns {
		p := panel{title: t.Columns[j].head()}
		for i, r := range t.Rows {
			p.bars = append(p.bars, bar{r.Title, r.Ours, t.Spread(i, j)})
		}
		panels = append(panels, p)
	}
	return draw(t.Chart.Title, panels)
}

// Sizes in pixels.
const (
	chartWidth  = 860
	margin      = 16
	labelWidth  = 220
	numberWidth = 90
	barHeight   = 18
	barStep     = 24
	panelHead   = 34
	chartHead   = 40
)

const style = `<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .sub { font-size: 12px; fill: #57606a }
.ours { fill: #0a7d5a } .other { fill: #8c959f } .whisker { stroke: #24292f; stroke-width: 1.5; fill: none }
.line { stroke: #0a7d5a; stroke-width: 2; fill: none } .axis { stroke: #8c959f; stroke-width: 1; fill: none }
.ground { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .sub { fill: #9198a1 } .ours { fill: #2ea37c } .other { fill: #656c76 } .whisker { stroke: #e6edf3 }
.line { stroke: #2ea37c } .axis { stroke: #656c76 }
.ground { fill: #0d1117 }
}
</style>
`

// open begins a chart of that height.
func open(subtitle string, height int) *bytes.Buffer {
	b := new(bytes.Buffer)
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		chartWidth, height, chartWidth, height, escape(subtitle))
	b.WriteString(style)
	fmt.Fprintf(b, `<rect class="ground" width="%d" height="%d"/>`+"\n", chartWidth, height)
	text(b, "sub", margin, margin+10, "start", subtitle)
	return b
}

// draw draws panels of bars below each other.
func draw(subtitle string, panels []panel) []byte {
	height := chartHead + margin
	for _, p := range panels {
		height += panelHead + len(p.bars)*barStep
	}
	b := open(subtitle, height)
	y := chartHead
	for _, p := range panels {
		text(b, "title", margin, y+16, "start", p.title)
		y += panelHead - 8
		scale := p.scale()
		for _, bar := range p.bars {
			bar.draw(b, y, scale)
			y += barStep
		}
		y += 8
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// scale is pixels per unit.
func (p panel) scale() float64 {
	most := 0.0
	for _, b := range p.bars {
		most = max(most, b.s.Max)
	}
	if most == 0 {
		return 0
	}
	return (chartWidth - 2*margin - labelWidth - numberWidth) / most
}

func (b bar) draw(w *bytes.Buffer, y int, scale float64) {
	const left = margin + labelWidth
	middle := y + barHeight/2
	text(w, "", left-8, middle+4, "end", b.label)
	if b.s.N == 0 {
		text(w, "sub", left, middle+4, "start", "not measured")
		return
	}
	class := "other"
	if b.ours {
		class = "ours"
	}
	fmt.Fprintf(w, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`+"\n", class, left, y, max(1, b.s.Median*scale), barHeight)
	lo, hi := left+b.s.Min*scale, left+b.s.Max*scale
	if b.s.N > 1 {
		fmt.Fprintf(w, `<path class="whisker" d="M%.1f %dV%dM%.1f %dH%.1fM%.1f %dV%d"/>`+"\n",
			lo, middle-4, middle+4, lo, middle, hi, hi, middle-4, middle+4)
	}
	text(w, "", int(hi)+8, middle+4, "start", number(b.s.Median))
}

func text(w *bytes.Buffer, class string, x, y int, anchor, s string) {
	fmt.Fprintf(w, `<text class="%s" x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", class, x, y, anchor, escape(s))
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // writing to memory does not fail
	return b.String()
}
