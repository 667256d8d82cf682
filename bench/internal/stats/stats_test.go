package stats_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/parley-chat/parley/bench/internal/stats"
)

func TestOf(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		name   string
		values []float64
		want   stats.Spread
	}{
		{"nothing", nil, stats.Spread{}},
		{"one", []float64{3}, stats.Spread{Median: 3, Min: 3, Max: 3, N: 1}},
		{"odd", []float64{9, 1, 4}, stats.Spread{Median: 4, Min: 1, Max: 9, N: 3}},
		{"even", []float64{8, 1, 2, 4}, stats.Spread{Median: 3, Min: 1, Max: 8, N: 4}},
		{"equal", []float64{5, 5, 5, 5}, stats.Spread{Median: 5, Min: 5, Max: 5, N: 4}},
		{"an outlier moves no median", []float64{10, 11, 12, 13, 1e9}, stats.Spread{Median: 12, Min: 10, Max: 1e9, N: 5}},
		{"not measured", []float64{nan, 2, inf, 4, -inf}, stats.Spread{Median: 3, Min: 2, Max: 4, N: 2}},
		{"only not measured", []float64{nan, inf}, stats.Spread{}},
		{"no overflow", []float64{math.MaxFloat64, math.MaxFloat64}, stats.Spread{Median: math.MaxFloat64, Min: math.MaxFloat64, Max: math.MaxFloat64, N: 2}},
	} {
		values := slices.Clone(c.values)
		if got := stats.Of(values); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		for i := range values {
			if values[i] != c.values[i] && !math.IsNaN(values[i]) {
				t.Errorf("%s: the values were changed to %v", c.name, values)
				break
			}
		}
	}
}

func TestRatio(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name   string
		of, to []float64
		want   stats.Spread
	}{
		{"twice", []float64{20, 40, 60}, []float64{10, 20, 30}, stats.Spread{Median: 2, Min: 2, Max: 2, N: 3}},
		{"rounds belong together", []float64{10, 30, 20}, []float64{10, 10, 10}, stats.Spread{Median: 2, Min: 1, Max: 3, N: 3}},
		// Medians 20 and 10 make 2; the rounds' ratios are 1, 20 and 3.
		{"ratio of medians", []float64{10, 20, 30}, []float64{10, 1, 10}, stats.Spread{Median: 2, Min: 1, Max: 20, N: 3}},
		// Medians 10 and 4 make 2.5; the rounds' ratios are 0.25, 3.3 and 5.
		{"one to many", []float64{1, 10, 20}, []float64{4, 3, 4}, stats.Spread{Median: 2.5, Min: 0.25, Max: 5, N: 3}},
		{"a round is missing", []float64{20, nan, 60}, []float64{10, 1, 30}, stats.Spread{Median: 2, Min: 2, Max: 2, N: 2}},
		{"missing in the other", []float64{20, 7, 60}, []float64{10, nan, 30}, stats.Spread{Median: 2, Min: 2, Max: 2, N: 2}},
		{"shorter", []float64{20, 40, 7}, []float64{10, 20}, stats.Spread{Median: 2, Min: 2, Max: 2, N: 2}},
		{"by zero", []float64{20, 40}, []float64{0, 20}, stats.Spread{Median: 2, Min: 2, Max: 2, N: 1}},
		{"nothing", nil, []float64{1}, stats.Spread{}},
	} {
		if got := stats.Ratio(c.of, c.to); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestRatioBetween: the ratio of the medians lies between the ratios of the rounds.
func TestRatioBetween(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		of, to := make([]float64, 1+rng.IntN(6)), make([]float64, 6)
		for i := range of {
			of[i] = math.Exp(10 * rng.Float64())
		}
		for i := range to {
			to[i] = math.Exp(10 * rng.Float64())
		}
		s := stats.Ratio(of, to)
		const tiny = 1e-9
		if s.N != len(of) || s.Median < s.Min*(1-tiny) || s.Median > s.Max*(1+tiny) {
			t.Fatalf("%v / %v: %+v", of, to, s)
		}
	}
}
