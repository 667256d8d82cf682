package client

import (
	"testing"
	"time"
)

// Of 5,000 clients that fail at the same moment, no more than a small share must
// come back in any one moment, however often they fail.
func TestJitterSpreads(t *testing.T) {
	const clients = 5000
	for n := range 12 {
		for name, wait := range map[string]func(int) time.Duration{"round": roundWait, "try": tryWait} {
			whole := max(wait(n), wait(n), wait(n), wait(n))
			slot := whole / 20
			slots := make(map[time.Duration]int)
			for range clients {
				slots[wait(n)/slot]++
			}
			for at, count := range slots {
				if count > clients/4 {
					t.Errorf("%s %d: %d of %d clients come in the %v around %v", name, n, count, clients, slot, at*slot)
				}
			}
		}
	}
}

func TestBackoffGrows(t *testing.T) {
	if d := roundWait(0); d < 10*time.Millisecond || d > 20*time.Millisecond {
		t.Errorf("first round after %v", d)
	}
	var sum time.Duration
	for n := range 5 {
		sum += grow(firstRound, n, lastRound)
	}
	if sum > 300*time.Millisecond {
		t.Errorf("five rounds take up to %v: too slow for a failover", sum)
	}
	for _, n := range []int{20, 1000, 1 << 30} {
		if d := roundWait(n); d < lastRound/2 || d > lastRound {
			t.Errorf("round %d after %v", n, d)
		}
	}
}
