package fsm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestArrivals: messages in shared buffers are those that were put there, and
// those that are removed leave no memory behind that is not used again.
func TestArrivals(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	var r arrivals
	want := make(map[uint64]message)
	var order []uint64 // the keys of want, in order
	pos := uint64(1 << 16)
	for step := range 1500 {
		for range rng.IntN(20) {
			pos += 1 + rng.Uint64N(3)
			size := rng.IntN(400)
			if rng.IntN(200) == 0 {
				size = pieceBytes + rng.IntN(pieceBytes)
			}
			text := strings.Repeat(fmt.Sprint(step%10), size)
			m := message{head{box: 1, id: pos, time: int64(step), end: pos, from: uint8(size / 2)}, text}
			r.add(pos, m.head, text)
			want[pos], order = m, append(order, pos)
		}
		n := rng.IntN(12) // from the front, or anywhere
		if step%300 == 299 {
			n = len(order)
		}
		for range min(n, len(order)) {
			i := rng.IntN(len(order)) * rng.IntN(2) * (step % 3 / 2)
			r.remove(order[i])
			r.remove(order[i]) // no effect
			delete(want, order[i])
			order = slices.Delete(order, i, i+1)
		}
		if len(order) == 0 && (r.bytes != 0 || len(r.pieces) > 1) {
			t.Fatalf("%d bytes in %d pieces for no mail", r.bytes, len(r.pieces))
		}
		if step%10 == 0 {
			checkArrivals(t, &r, want, order, pos)
		}
	}
}

func checkArrivals(t *testing.T, r *arrivals, want map[uint64]message, order []uint64, last uint64) {
	t.Helper()
	for pos := max(last, 20_000) - 20_000; pos < last+3; pos++ {
		value := r.find(pos)
		w, ok := want[pos]
		if !ok {
			if value != nil {
				t.Fatalf("there is a message at %d", pos)
			}
			continue
		}
		h, text, err := openRecent(value)
		if err != nil || h != w.head || string(text) != w.text {
			t.Fatalf("message at %d is %+v %q, want %+v", pos, h, text, w)
		}
	}
	var got []uint64
	bytes := int64(0)
	r.all(func(pos uint64, value []byte) {
		got = append(got, pos)
		bytes += int64(len(value)) + costPlace
		if !slices.Equal(value, r.find(pos)) {
			t.Fatalf("message at %d is not what is found there", pos)
		}
	})
	if !slices.Equal(got, order) {
		t.Fatalf("messages at %v, want %v", got, order)
	}
	if r.bytes < bytes {
		t.Fatalf("%d bytes of memory for %d of messages", r.bytes, bytes)
	}
}
