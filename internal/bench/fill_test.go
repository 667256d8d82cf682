package bench_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/bench"
)

// unread is how much mail a user has.
func (w *world) unread(user string) uint64 {
	w.t.Helper()
	res, err := w.fake.Get(w.t.Context(), parley.Inbox{User: user, Limit: -1})
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		w.t.Fatalf("%s: %v", user, err)
	}
	return res.Unread
}

// TestFill: what was asked for is there, a run over it adds to it, and nothing is
// taken away.
func TestFill(t *testing.T) {
	w := newWorld(t, slow{})
	stock := bench.Stock{Dial: w.dial, Prefix: "old", From: 0, To: 20, Messages: 3, Size: 10, Senders: 3, Window: 4}
	if err := bench.Fill(t.Context(), stock); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if n := w.unread(fmt.Sprintf("old-%07d", i)); n != 3 {
			t.Errorf("user %d has %d messages, want 3", i, n)
		}
	}
	if err := bench.Fill(t.Context(), stock); parley.CodeOf(err) != parley.CodeNameTaken {
		t.Errorf("users were made twice: %v", err)
	}
	stock.Made, stock.To, stock.Messages = true, 1, 7
	if err := bench.Fill(t.Context(), stock); err != nil {
		t.Fatal(err)
	}
	if n := w.unread("old-0000000"); n != 10 {
		t.Errorf("%d messages, want 7 more than 3", n)
	}

	begun := time.Now()
	var seen, strange atomic.Int64
	before := w.sends.Load()
	report, err := bench.Run(t.Context(), bench.Config{
		Dial: w.dial, Existing: "old", Users: 20, Keep: true, Senders: 2, Window: 4, Duration: 200 * time.Millisecond,
		Observe: func(at time.Time, took time.Duration) {
			seen.Add(1)
			if at.Before(begun) || took <= 0 || at.Add(took).After(time.Now()) {
				strange.Add(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.wantAll(report)
	if seen.Load() != report.Done || strange.Load() > 0 {
		t.Errorf("told of %d of %d commands, %d of them at times that cannot be", seen.Load(), report.Done, strange.Load())
	}
	var left uint64
	for i := range 20 {
		left += w.unread(fmt.Sprintf("old-%07d", i))
	}
	if want := uint64(20*3 + 7 + w.sends.Load() - before); left != want {
		t.Errorf("%d messages are left, want %d", left, want)
	}
	if n := w.fake.Sessions(); n > 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestFillRefuses(t *testing.T) {
	w := newWorld(t, slow{})
	for _, st := range []bench.Stock{
		{},
		{Dial: w.dial},
		{Dial: w.dial, Prefix: "a", From: 2, To: 1},
		{Dial: w.dial, Prefix: "a", Window: bench.MaxWindow + 1},
	} {
		if bench.Fill(t.Context(), st) == nil {
			t.Errorf("%+v was accepted", st)
		}
	}
}
