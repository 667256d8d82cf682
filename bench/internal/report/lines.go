package report

import (
	"bytes"
	"fmt"
	"math"
)

// Sizes of a panel of lines, in pixels.
const (
	lineLeft   = margin + 90 // room for the figures of the scale
	lineHeight = 150
	linePanel  = lineHeight + 80
)

// place is a point of a line with its whisker.
type place struct {
	x               int
	y, low, high    float64
	title, measured string
}

// drawLines draws each column over the rows' X, which is on a logarithmic scale; the
// other scale begins at 0, so that what looks flat is.
func (t Table) drawLines(columns []int) []byte {
	b := open(t.Chart.Title, chartHead+len(columns)*linePanel+margin)
	y := chartHead
	for _, j := range columns {
		text(b, "title", margin, y+16, "start", t.Columns[j].head())
		t.drawLine(b, j, y+34)
		y += linePanel
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// drawLine draws a column below y.
func (t Table) drawLine(b *bytes.Buffer, column, top int) {
	bottom := top + lineHeight
	places, most := t.places(column, float64(top), float64(bottom))
	fmt.Fprintf(b, `<path class="axis" d="M%d %dV%dH%d"/>`+"\n", lineLeft, top, bottom, chartWidth-margin)
	text(b, "sub", lineLeft-8, bottom+4, "end", "0")
	text(b, "sub", chartWidth-margin, bottom+36, "end", t.Chart.X)
	if len(places) == 0 {
		text(b, "sub", lineLeft+8, bottom-8, "start", "not measured")
		return
	}
	text(b, "sub", lineLeft-8, top+4, "end", number(most))
	path := ""
	for i, p := range places {
		move := "L"
		if i == 0 {
			move = "M"
		}
		path += fmt.Sprintf("%s%d %.1f", move, p.x, p.y)
	}
	fmt.Fprintf(b, `<path class="line" d="%s"/>`+"\n", path)
	for _, p := range places {
		fmt.Fprintf(b, `<path class="whisker" d="M%d %.1fV%.1f"/>`+"\n", p.x, p.low, p.high)
		fmt.Fprintf(b, `<circle class="ours" cx="%d" cy="%.1f" r="3.5"/>`+"\n", p.x, p.y)
		text(b, "sub", p.x, bottom+18, "middle", p.title)
		text(b, "", p.x, int(p.high)-6, "middle", p.measured)
	}
}

// places are the points of a column between two heights, and the figure at the upper.
func (t Table) places(column int, top, bottom float64) (places []place, most float64) {
	least, last := math.Inf(1), 0.0 // of X
	for i, r := range t.Rows {
		if s := t.Spread(i, column); s.N > 0 && r.X > 0 {
			most = max(most, s.Max)
			least, last = min(least, r.X), max(last, r.X)
		}
	}
	if most == 0 {
		return nil, 0
	}
	const left, right = lineLeft + 40, chartWidth - margin - 50
	wide := math.Log(last) - math.Log(least)
	for i, r := range t.Rows {
		s := t.Spread(i, column)
		if s.N == 0 || r.X <= 0 {
			continue
		}
		x := float64(left)
		if wide > 0 {
			x += (right - left) * (math.Log(r.X) - math.Log(least)) / wide
		}
		at := func(v float64) float64 { return bottom - (bottom-top)*v/most }
		places = append(places, place{
			x: int(x), y: at(s.Median), low: at(s.Min), high: at(s.Max), title: r.Title, measured: number(s.Median),
		})
	}
	return places, most
}
