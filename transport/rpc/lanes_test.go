package rpc

import (
	"math"
	"testing"
)

// TestLastNumber: a lane comes to the last number that there is, and to an end there.
func TestLastNumber(t *testing.T) {
	turn := make(chan struct{})
	ln := &lane{next: math.MaxUint64 - 1, turns: map[uint64]chan struct{}{math.MaxUint64: turn}}
	ln.advance(math.MaxUint64)
	<-turn
}
