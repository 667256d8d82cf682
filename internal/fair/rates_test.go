package fair

import (
	"testing"
	"testing/synctest"
	"time"
)

// Each does so much a second and no more, whatever others do, in bounded memory.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRates[int](10, 20)
		taken := func(key, tries int) (n int) {
			for range tries {
				if r.Take(key) {
					n++
				}
			}
			return n
		}
		if n := taken(-1, 100); n != 20 {
			t.Errorf("%d of 100 at once, want 20", n)
		}
		if n := taken(-2, 5); n != 5 {
			t.Errorf("%d of another one's 5", n)
		}
		time.Sleep(500 * time.Millisecond)
		if n := taken(-1, 100); n != 5 {
			t.Errorf("%d half a second later, want 5", n)
		}
		for i := range 3 * maxBuckets {
			if taken(i, 1) != 1 {
				t.Fatalf("number %d gets nothing", i)
			}
			if len(r.buckets) > maxBuckets {
				t.Fatalf("%d buckets", len(r.buckets))
			}
		}
		if !NewRates[int](0, 0).Take(1) {
			t.Error("without a limit there is one")
		}
	})
}
