package pause

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		for _, d := range []time.Duration{time.Second, 0, -time.Second} {
			if !For(ctx, d) {
				t.Errorf("%v: the context is said to have ended", d)
			}
		}
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %v, want 1s", waited)
		}
		if For(ctx, time.Hour) {
			t.Error("the context has ended, and that was not noticed")
		}
		if waited := time.Since(began); waited != 3*time.Second {
			t.Errorf("waited %v, want 3s", waited)
		}
		if For(ctx, 0) {
			t.Error("no wait: the context is said to be alive")
		}
	})
}

func TestBackoff(t *testing.T) {
	const first, last = 10 * time.Millisecond, 50 * time.Millisecond
	for n, want := range map[int]time.Duration{0: first, 1: 2 * first, 2: 4 * first, 3: last, 1 << 30: last} {
		seen := make(map[time.Duration]bool)
		for range 100 {
			d := Backoff(n, first, last)
			if d < want/2 || d > want {
				t.Fatalf("after failure %d: %v, want %v to %v", n, d, want/2, want)
			}
			seen[d] = true
		}
		if len(seen) < 50 {
			t.Errorf("after failure %d: only %d different waits in 100", n, len(seen))
		}
	}
	for _, d := range []time.Duration{-1, 0, 1, 2} {
		if got := Jitter(d); got < 0 || got > max(d, 0) {
			t.Errorf("jitter of %d: %d", d, got)
		}
	}
}
