package check_test

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/check"
)

var (
	aliceToBob = check.Stream{From: "alice", To: "bob"}
	carolToBob = check.Stream{From: "carol", To: "bob"}
	aliceToEve = check.Stream{From: "alice", To: "eve"}
)

// at is the position of a message in the first incarnation of a mailbox.
func at(id parley.MessageID) parley.Cursor { return parley.Cursor{Incarnation: 7, ID: id} }

func message(s check.Stream, n uint64, c parley.Cursor) parley.Message {
	return parley.Message{Cursor: c, From: s.From, Body: check.Body(s, n)}
}

// history is a log with one reader per mailbox, for short scripts.
type history struct {
	*check.Log
	bob, eve *check.Reader
}

func newHistory() *history {
	l := check.NewLog()
	return &history{Log: l, bob: l.Reader("r1", "bob"), eve: l.Reader("r1", "eve")}
}

// acked sends n messages of s and acknowledges them.
func (h *history) acked(s check.Stream, n int) {
	for range n {
		h.Acknowledge(s, h.Send(s))
	}
}

func TestVerdict(t *testing.T) {
	tests := []struct {
		name string
		run  func(h *history)
		want check.Verdict
		says string // part of the one problem described; "" for none
	}{
		{
			name: "nothing happened",
			run:  func(*history) {},
		},
		{
			name: "all well",
			run: func(h *history) {
				h.acked(aliceToBob, 2)
				h.acked(carolToBob, 1)
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
				h.bob.Deliver(message(carolToBob, 1, at(2)))
				h.bob.Deliver(message(aliceToBob, 2, at(3)))
			},
			want: check.Verdict{Sent: 3, Acknowledged: 3, Delivered: 3},
		},
		{
			name: "delivered before it was acknowledged",
			run: func(h *history) {
				n := h.Send(aliceToBob)
				h.bob.Deliver(message(aliceToBob, n, at(1)))
				h.Acknowledge(aliceToBob, n)
			},
			want: check.Verdict{Sent: 1, Acknowledged: 1, Delivered: 1},
		},
		{
			name: "acknowledged twice counts once",
			run: func(h *history) {
				n := h.Send(aliceToBob)
				h.Acknowledge(aliceToBob, n)
				h.Acknowledge(aliceToBob, n)
				h.bob.Deliver(message(aliceToBob, n, at(1)))
			},
			want: check.Verdict{Sent: 1, Acknowledged: 1, Delivered: 1},
		},
		{
			name: "unknown outcome, not delivered",
			run:  func(h *history) { h.Send(aliceToBob) },
			want: check.Verdict{Sent: 1},
		},
		{
			name: "unknown outcome, delivered once",
			run: func(h *history) {
				h.Send(aliceToBob)
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
			},
			want: check.Verdict{Sent: 1, Delivered: 1},
		},
		{
			name: "unknown outcome, delivered twice",
			run: func(h *history) {
				h.Send(aliceToBob)
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
				h.bob.Deliver(message(aliceToBob, 1, at(2)))
			},
			want: check.Verdict{Sent: 1, Delivered: 1, Duplicated: 1},
			says: `duplicated: reader r1 of bob was shown "alice bob 1" again`,
		},
		{
			name: "refused, not delivered",
			run:  func(h *history) { h.Refuse(aliceToBob, h.Send(aliceToBob)) },
			want: check.Verdict{Sent: 1},
		},
		{
			name: "refused, then delivered",
			run: func(h *history) {
				h.Refuse(aliceToBob, h.Send(aliceToBob))
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
			},
			want: check.Verdict{Sent: 1, Delivered: 1, Phantom: 1},
			says: "was refused and delivered",
		},
		{
			name: "delivered, then refused",
			run: func(h *history) {
				h.Send(aliceToBob)
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
				h.Refuse(aliceToBob, 1)
			},
			want: check.Verdict{Sent: 1, Delivered: 1, Phantom: 1},
			says: "was refused and delivered",
		},
		{
			name: "lost in the middle",
			run: func(h *history) {
				h.acked(aliceToBob, 3)
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
				h.bob.Deliver(message(aliceToBob, 3, at(2)))
			},
			want: check.Verdict{Sent: 3, Acknowledged: 3, Delivered: 2, Lost: 1},
			says: `lost: alice bob 2`,
		},
		{
			name: "acknowledged message delivered twice",
			run: func(h *history) {
				h.acked(aliceToBob, 1)
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
			},
			want: check.Verdict{Sent: 1, Acknowledged: 1, Delivered: 1, Duplicated: 1},
			says: "duplicated",
		},
		{
			name: "sender's order turned around",
			run: func(h *history) {
				h.acked(aliceToBob, 2)
				h.bob.Deliver(message(aliceToBob, 2, at(1)))
				h.bob.Deliver(message(aliceToBob, 1, at(2)))
			},
			want: check.Verdict{Sent: 2, Acknowledged: 2, Delivered: 2, Reordered: 1},
			says: "after number 2 of the same sender",
		},
		{
			name: "positions go backwards",
			run: func(h *history) {
				h.acked(aliceToBob, 1)
				h.acked(carolToBob, 1)
				h.bob.Deliver(message(aliceToBob, 1, at(2)))
				h.bob.Deliver(message(carolToBob, 1, at(1)))
			},
			want: check.Verdict{Sent: 2, Acknowledged: 2, Delivered: 2, Reordered: 1},
			says: "reordered",
		},
		{
			name: "two messages at one position",
			run: func(h *history) {
				h.acked(aliceToBob, 1)
				h.acked(carolToBob, 1)
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
				h.bob.Deliver(message(carolToBob, 1, at(1)))
			},
			want: check.Verdict{Sent: 2, Acknowledged: 2, Delivered: 2, Reordered: 1},
			says: "reordered",
		},
		{
			name: "numbers start again after the user was created again",
			run: func(h *history) {
				h.acked(aliceToBob, 2)
				h.bob.Deliver(message(aliceToBob, 1, at(5)))
				h.bob.Deliver(message(aliceToBob, 2, parley.Cursor{Incarnation: 9, ID: 1}))
			},
			want: check.Verdict{Sent: 2, Acknowledged: 2, Delivered: 2},
		},
		{
			name: "never sent",
			run: func(h *history) {
				h.acked(aliceToBob, 1)
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
				h.bob.Deliver(message(aliceToBob, 2, at(2)))
			},
			want: check.Verdict{Sent: 1, Acknowledged: 1, Delivered: 1, Phantom: 1},
			says: `phantom: reader r1 of bob was shown "alice bob 2"`,
		},
		{
			name: "number 0",
			run: func(h *history) {
				h.acked(aliceToBob, 1)
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
				h.bob.Deliver(message(aliceToBob, 0, at(2)))
			},
			want: check.Verdict{Sent: 1, Acknowledged: 1, Delivered: 1, Phantom: 1},
			says: "phantom",
		},
		{
			name: "unknown sender",
			run:  func(h *history) { h.bob.Deliver(message(carolToBob, 1, at(1))) },
			want: check.Verdict{Phantom: 1},
			says: "phantom",
		},
		{
			name: "text nobody wrote",
			run:  func(h *history) { h.bob.Deliver(parley.Message{Cursor: at(1), Body: "hello"}) },
			want: check.Verdict{Phantom: 1},
			says: "phantom",
		},
		{
			name: "in the wrong mailbox",
			run: func(h *history) {
				h.acked(aliceToEve, 1)
				h.bob.Deliver(message(aliceToEve, 1, at(1)))
				h.eve.Deliver(message(aliceToEve, 1, at(1)))
			},
			want: check.Verdict{Sent: 1, Acknowledged: 1, Delivered: 1, Phantom: 1},
			says: "phantom",
		},
		{
			name: "two readers, each sees everything",
			run: func(h *history) {
				h.acked(aliceToBob, 2)
				other := h.Reader("r2", "bob")
				for n := range uint64(2) {
					h.bob.Deliver(message(aliceToBob, n+1, at(parley.MessageID(n+1))))
					other.Deliver(message(aliceToBob, n+1, at(parley.MessageID(n+1))))
				}
			},
			want: check.Verdict{Sent: 2, Acknowledged: 2, Delivered: 2},
		},
		{
			name: "two readers see different orders",
			run: func(h *history) {
				h.acked(aliceToBob, 1)
				h.acked(carolToBob, 1)
				other := h.Reader("r2", "bob")
				h.bob.Deliver(message(aliceToBob, 1, at(1)))
				h.bob.Deliver(message(carolToBob, 1, at(2)))
				other.Deliver(message(carolToBob, 1, at(1)))
				other.Deliver(message(aliceToBob, 1, at(2)))
			},
			want: check.Verdict{Sent: 2, Acknowledged: 2, Delivered: 2, Reordered: 2},
			says: "another reader at",
		},
		{
			name: "text after the number is ignored",
			run: func(h *history) {
				h.acked(aliceToBob, 1)
				h.bob.Deliver(parley.Message{Cursor: at(1), Body: check.Body(aliceToBob, 1) + " and so on, and so on"})
			},
			want: check.Verdict{Sent: 1, Acknowledged: 1, Delivered: 1},
		},
		{
			name: "reports about messages that were not sent change nothing",
			run: func(h *history) {
				h.Acknowledge(aliceToBob, 1)
				h.Refuse(aliceToBob, 1)
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHistory()
			tt.run(h)
			got := h.Verdict()
			if got != tt.want {
				t.Errorf("verdict: %v\nwant:    %v", got, tt.want)
			}
			bad := tt.want.Lost+tt.want.Duplicated+tt.want.Reordered+tt.want.Phantom > 0
			if got.OK() == bad {
				t.Errorf("OK() = %v for %v", got.OK(), got)
			}
			if got.Lost != h.Missing() {
				t.Errorf("Missing() = %d, Lost = %d", h.Missing(), got.Lost)
			}
			problems := strings.Join(h.Problems(), "\n")
			if (problems != "") != bad || !strings.Contains(problems, tt.says) {
				t.Errorf("problems %q, want %q", problems, tt.says)
			}
		})
	}
}

// TestPlanted lets a random but correct history pass, plants one error of each
// kind in it, and wants exactly that one found.
func TestPlanted(t *testing.T) {
	const senders, each = 4, 50
	type event struct {
		s check.Stream
		n uint64
	}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		play := func(t *testing.T, plant func([]event) []event) check.Verdict {
			t.Helper()
			h := newHistory()
			var mailbox []event
			for range each {
				for i := range senders {
					s := check.Stream{From: string(rune('a' + i)), To: "bob"}
					n := h.Send(s)
					if rng.IntN(4) > 0 {
						h.Acknowledge(s, n)
						mailbox = append(mailbox, event{s, n})
					} else if rng.IntN(2) > 0 { // unknown, took effect
						mailbox = append(mailbox, event{s, n})
					}
				}
			}
			for i, e := range plant(mailbox) {
				h.bob.Deliver(message(e.s, e.n, at(parley.MessageID(i+1))))
			}
			return h.Verdict()
		}
		errors := func(v check.Verdict) [4]int { return [4]int{v.Lost, v.Duplicated, v.Reordered, v.Phantom} }

		if v := play(t, func(m []event) []event { return m }); !v.OK() {
			t.Fatalf("seed %d: correct history: %v", seed, v)
		}
		v := play(t, func(m []event) []event { return append(m[:0:0], m[:len(m)-10]...) })
		if v.Lost == 0 || v.Duplicated+v.Reordered+v.Phantom != 0 {
			t.Errorf("seed %d: cut off the end: %v", seed, v)
		}
		v = play(t, func(m []event) []event { return append(m, m[rng.IntN(len(m))]) })
		if errors(v) != [4]int{0, 1, 0, 0} {
			t.Errorf("seed %d: one again: %v", seed, v)
		}
		v = play(t, func(m []event) []event {
			i := rng.IntN(len(m) - 1)
			for j := i + 1; ; j++ { // the next of the same sender
				if j == len(m) {
					i, j = 0, 0
				} else if m[j].s == m[i].s {
					m[i], m[j] = m[j], m[i]
					return m
				}
			}
		})
		if v.Reordered == 0 || v.Lost+v.Duplicated+v.Phantom != 0 {
			t.Errorf("seed %d: two swapped: %v", seed, v)
		}
		v = play(t, func(m []event) []event { return append(m, event{m[0].s, each + 1}) })
		if errors(v) != [4]int{0, 0, 0, 1} {
			t.Errorf("seed %d: one made up: %v", seed, v)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	const senders, each = 8, 500
	l := check.NewLog()
	var wg sync.WaitGroup
	for i := range senders {
		s := check.Stream{From: "s", To: string(rune('a' + i))}
		r := l.Reader("r", s.To)
		wg.Go(func() {
			for range each {
				n := l.Send(s)
				r.Deliver(message(s, n, at(parley.MessageID(n))))
				l.Acknowledge(s, n)
			}
		})
	}
	wg.Wait()
	if got, want := l.Verdict(), (check.Verdict{Sent: senders * each, Acknowledged: senders * each, Delivered: senders * each}); got != want {
		t.Errorf("verdict %v, want %v", got, want)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	h := newHistory()
	for range 1000 {
		h.bob.Deliver(parley.Message{Body: "hello"})
	}
	h.acked(aliceToBob, 1000)
	if n := len(h.Problems()); n < 20 || n > 50 {
		t.Errorf("%d problems described", n)
	}
	if v := h.Verdict(); v.Phantom != 1000 || v.Lost != 1000 {
		t.Errorf("verdict %v", v)
	}
}

func TestParseBody(t *testing.T) {
	for _, s := range []check.Stream{aliceToBob, {From: "ünï", To: "日本"}, {From: "", To: "x"}} {
		got, n, ok := check.ParseBody(check.Body(s, 12345678901))
		if got != s || n != 12345678901 || !ok {
			t.Errorf("%v: got %v, %d, %v", s, got, n, ok)
		}
	}
	for _, body := range []string{"", "a", "a b", "a b ", "a b c", "a b -1", "a b 99999999999999999999"} {
		if s, n, ok := check.ParseBody(body); ok {
			t.Errorf("%q: accepted as %v %d", body, s, n)
		}
	}
}
