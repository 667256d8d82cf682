// Package stats sums up what was measured several times.
package stats

import (
	"math"
	"slices"
)

// Spread is the middle of some values and how far they lie apart.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"` // number of values; 0: the others mean nothing
}

// Of sums up values. What is not a number, or infinite, was not measured and does not count.
func Of(values []float64) Spread {
	sorted := finite(values)
	n := len(sorted)
	if n == 0 {
		return Spread{}
	}
	slices.Sort(sorted)
	median := sorted[n/2]
	if n%2 == 0 {
		median = sorted[n/2-1] + (sorted[n/2]-sorted[n/2-1])/2
	}
	return Spread{Median: median, Min: sorted[0], Max: sorted[n-1], N: n}
}

func finite(values []float64) []float64 {
	var kept []float64
	for _, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			kept = append(kept, v)
		}
	}
	return kept
}

// Ratio compares two series in which values of the same index belong together,
// being of the same round: what disturbed the machine then disturbed both. The
// median is the ratio of the two medians, so that it can be checked against a table
// of medians; minimum and maximum are those of the rounds' own ratios, between which
// it always lies. Rounds that one series has no value of, or a zero to divide by, do
// not count. N is the number of rounds compared.
func Ratio(of, to []float64) Spread {
	var ofs, tos, ratios []float64
	for i := range min(len(of), len(to)) {
		r := of[i] / to[i]
		if len(finite([]float64{of[i], to[i], r})) < 3 {
			continue
		}
		ofs, tos, ratios = append(ofs, of[i]), append(tos, to[i]), append(ratios, r)
	}
	s := Of(ratios)
	if s.N == 0 {
		return s
	}
	s.Median = Of(ofs).Median / Of(tos).Median
	return s
}
