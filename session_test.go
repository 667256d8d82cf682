package parley_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
)

// newFake returns a Fake with a user u.
func newFake(t *testing.T) *parleytest.Fake {
	t.Helper()
	f := parleytest.NewFake()
	t.Cleanup(f.Close)
	if _, err := parley.Do(t.Context(), f, parley.Request{Command: parley.CreateUser{Name: "u"}}); err != nil {
		t.Fatal(err)
	}
	return f
}

func bodies(t *testing.T, f *parleytest.Fake) []string {
	t.Helper()
	var got []string
	q := parley.Inbox{User: "u"}
	for {
		r, err := f.Get(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range r.Messages {
			got = append(got, m.Body)
			q.After = m.Cursor
		}
		if !r.More {
			return got
		}
	}
}

func text(body any) parley.Send { return parley.Send{To: "u", Body: fmt.Sprint(body)} }

func inSession(r parley.Request) bool { return r.Session != 0 }

// outcome is what done was called with.
type outcome struct {
	n   int
	r   parley.Result
	err error
}

// weather makes up faults of all kinds that a changing leader causes.
type weather struct {
	mu     sync.Mutex
	rng    *rand.Rand
	unruly bool // the outcome may never come
}

func (w *weather) judge(r parley.Request) parleytest.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	var f parleytest.Fault
	switch n := w.rng.IntN(100); {
	case n < 10:
		f.Err = parley.Errorf(parley.CodeNotLeader, "")
	case n < 15:
		f.Err = parley.Errorf(parley.CodeOverloaded, "")
	case n < 25:
		f.Err, f.Applied = parley.Errorf(parley.CodeInterrupted, ""), w.rng.IntN(2) == 0
	case n < 30:
		f.Err, f.Applied = errors.New("an error that says nothing"), w.rng.IntN(2) == 0
	case n < 33 && w.unruly:
		f.Hold = make(chan struct{})
	}
	if f.Hold == nil && w.rng.IntN(3) > 0 {
		hold := make(chan struct{})
		time.AfterFunc(time.Duration(w.rng.IntN(20))*time.Millisecond, func() { close(hold) })
		f.Hold = hold
	}
	return f
}

func (w *weather) chance(percent int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(100) < percent
}

// TestSessionOnceInOrder: whatever happens to requests and answers on the way,
// what is acknowledged took effect once, and all in the order of the starts.
func TestSessionOnceInOrder(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				w := &weather{rng: rand.New(rand.NewPCG(seed, 1)), unruly: seed%3 == 1}
				f.OnStart(w.judge)
				s := parley.NewSession(f)
				const n = 120
				outcomes := make(chan outcome, n)
				for i := range n {
					ctx := t.Context()
					if w.unruly {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
						defer cancel()
					}
					s.Start(ctx, text(i), func(r parley.Result, err error) { outcomes <- outcome{i, r, err} })
					if seed%3 == 2 && i%40 == 20 {
						f.ExpireSessions()
					}
					if w.chance(5) {
						time.Sleep(15 * time.Millisecond) // virtual time: some outcomes come
					}
				}
				acknowledged := make(map[int]bool)
				for range n {
					o := <-outcomes
					switch code := parley.CodeOf(o.err); {
					case o.err == nil && o.r.Code == parley.CodeOK:
						acknowledged[o.n] = true
					case w.unruly && (code == parley.CodeNoQuorum || code == parley.CodeOverloaded):
					case seed%3 == 2 && code == parley.CodeOutcomeUnknown:
					default:
						t.Errorf("command %d: %+v, %v", o.n, o.r, o.err)
					}
				}
				if seed%3 == 0 && len(acknowledged) != n {
					t.Errorf("%d of %d acknowledged", len(acknowledged), n)
				}
				checkHistory(t, bodies(t, f), acknowledged)
			})
		})
	}
}

// checkHistory checks that got ascends and holds all that was acknowledged.
func checkHistory(t *testing.T, got []string, acknowledged map[int]bool) {
	t.Helper()
	last := -1
	for _, body := range got {
		n, err := strconv.Atoi(body)
		if err != nil || n <= last {
			t.Fatalf("%q after %d in %q", body, last, got)
		}
		last = n
		delete(acknowledged, n)
	}
	if len(acknowledged) > 0 {
		t.Errorf("acknowledged but not there: %v", acknowledged)
	}
}

// TestSessionGoesOnAfterGivingUp: a number that was given up is declared so, and does not
// hold up those behind it.
func TestSessionGoesOnAfterGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := parley.NewSession(f)
		f.OnStart(func(r parley.Request) parleytest.Fault {
			if inSession(r) && r.Command == text("lost") {
				return parleytest.Fault{Err: parley.Errorf(parley.CodeNotLeader, "")}
			}
			return parleytest.Fault{}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		lost := make(chan error, 1)
		s.Start(ctx, text("lost"), func(_ parley.Result, err error) { lost <- err })
		r, err := s.Do(t.Context(), text("kept"))
		if err != nil || r.Code != parley.CodeOK {
			t.Fatalf("the command behind: %+v, %v", r, err)
		}
		if err := <-lost; parley.CodeOf(err) != parley.CodeNoQuorum {
			t.Errorf("the one given up: %v", err)
		}
		if got := bodies(t, f); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("arrived: %q", got)
		}
	})
}

// TestSessionResendsTogether: what waits for the leader is not sent again and
// again by each command's own clock, but in order and once per round.
func TestSessionResendsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := parley.NewSession(f)
		var mu sync.Mutex
		down := true
		starts := 0
		f.OnStart(func(r parley.Request) parleytest.Fault {
			mu.Lock()
			defer mu.Unlock()
			if !inSession(r) {
				return parleytest.Fault{}
			}
			starts++
			if down {
				return parleytest.Fault{Err: parley.Errorf(parley.CodeNotLeader, "")}
			}
			return parleytest.Fault{}
		})
		const n = 500
		done := make(chan error, n)
		for i := range n {
			s.Start(t.Context(), text(i), func(_ parley.Result, err error) { done <- err })
		}
		mu.Lock()
		if starts != 1 {
			t.Errorf("%d starts before the first back-off is over", starts)
		}
		mu.Unlock()
		time.Sleep(3 * time.Second)
		mu.Lock()
		down = false
		if starts > 15*n {
			t.Errorf("%d starts of %d commands in 3 s without a leader", starts, n)
		}
		starts = 0
		mu.Unlock()
		begin := time.Now()
		for range n {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begin); d > 700*time.Millisecond {
			t.Errorf("answered %v after the leader came", d)
		}
		if starts != n {
			t.Errorf("%d starts of %d commands with a leader", starts, n)
		}
		// The next trouble starts with a short back-off again.
		down = true
		time.AfterFunc(time.Millisecond, func() { mu.Lock(); down = false; mu.Unlock() })
		begin = time.Now()
		if _, err := s.Do(t.Context(), text("x")); err != nil || time.Since(begin) > 20*time.Millisecond {
			t.Errorf("a short trouble took %v, %v", time.Since(begin), err)
		}
	})
}

// TestSessionExpired: commands that cannot have taken effect move to a new
// session, in order and before later ones; for the others nobody can say.
func TestSessionExpired(t *testing.T) {
	testSessionOver(t, func(_ *testing.T, f *parleytest.Fake, _ parley.Request) { f.ExpireSessions() })
}

// TestSessionPoisoned: nobody owns an anonymous session, and whoever guesses its id can
// declare answered what was never sent. That is no reason never to work again.
func TestSessionPoisoned(t *testing.T) {
	testSessionOver(t, func(t *testing.T, f *parleytest.Fake, last parley.Request) {
		last.Seq, last.Answered = math.MaxUint64, math.MaxUint64-1
		last.Command = parley.CreateUser{Name: ","}
		if r, err := parley.Do(t.Context(), f, last); err != nil || r.Code != parley.CodeBadName {
			t.Fatal(r, err)
		}
	})
}

func testSessionOver(t *testing.T, end func(t *testing.T, f *parleytest.Fake, last parley.Request)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := parley.NewSession(f)
		var last parley.Request
		f.OnStart(func(r parley.Request) parleytest.Fault {
			last = r
			return parleytest.Fault{}
		})
		if _, err := s.Do(t.Context(), text("first")); err != nil {
			t.Fatal(err)
		}
		f.OnStart(nil)
		end(t, f, last)
		interrupted := false
		f.OnStart(func(r parley.Request) parleytest.Fault {
			switch {
			case r.Command == text("unknown") && !interrupted:
				interrupted = true
				return parleytest.Fault{Err: parley.Errorf(parley.CodeInterrupted, "")}
			case r.Command == text("slow"):
				hold := make(chan struct{})
				time.AfterFunc(50*time.Millisecond, func() { close(hold) })
				return parleytest.Fault{Hold: hold}
			}
			return parleytest.Fault{}
		})
		outcomes := make(chan outcome, 4)
		for i, body := range []string{"slow", "unknown", "a", "b"} {
			s.Start(t.Context(), text(body), func(r parley.Result, err error) { outcomes <- outcome{i, r, err} })
		}
		for range 4 {
			o := <-outcomes
			want := parley.CodeOK
			if o.n == 1 {
				want = parley.CodeOutcomeUnknown
			}
			if got := parley.CodeOf(o.err); got != want || o.r.Code != parley.CodeOK {
				t.Errorf("command %d: %+v, %v", o.n, o.r, o.err)
			}
		}
		if got, want := bodies(t, f), []string{"first", "slow", "a", "b"}; !slices.Equal(got, want) {
			t.Errorf("arrived: %q, want %q", got, want)
		}
	})
}

// TestSessionExpiredGivenUp: a command given up while its session is being
// replaced neither holds up the others nor takes a number in the new session.
func TestSessionExpiredGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := parley.NewSession(f)
		if _, err := s.Do(t.Context(), text("first")); err != nil {
			t.Fatal(err)
		}
		f.ExpireSessions()
		var seqs []uint64
		f.OnStart(func(r parley.Request) parleytest.Fault {
			if r.Command == text("never") {
				return parleytest.Fault{Hold: make(chan struct{})}
			}
			if inSession(r) {
				seqs = append(seqs, r.Seq-r.Answered)
			}
			return parleytest.Fault{}
		})
		long, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		outcomes := make(chan outcome, 4)
		for i, c := range []struct {
			ctx  context.Context
			body string
		}{{long, "never"}, {t.Context(), "a"}, {short, "given up"}, {t.Context(), "b"}} {
			s.Start(c.ctx, text(c.body), func(r parley.Result, err error) { outcomes <- outcome{i, r, err} })
		}
		for range 4 {
			o := <-outcomes
			want := parley.CodeOK
			if o.n%2 == 0 {
				want = parley.CodeNoQuorum
			}
			if got := parley.CodeOf(o.err); got != want {
				t.Errorf("command %d: %+v, %v", o.n, o.r, o.err)
			}
		}
		if got, want := bodies(t, f), []string{"first", "a", "b"}; !slices.Equal(got, want) {
			t.Errorf("arrived: %q, want %q", got, want)
		}
		if _, err := s.Do(t.Context(), text("c")); err != nil {
			t.Error(err)
		}
		if last := seqs[len(seqs)-1]; last != 1 {
			t.Errorf("the last command is %d ahead of what is answered", last)
		}
	})
}

// TestSessionHonoursContexts: whatever a command waits for, its context ends it.
func TestSessionHonoursContexts(t *testing.T) {
	never := func(parley.Request) parleytest.Fault { return parleytest.Fault{Hold: make(chan struct{})} }
	notLeader := func(parley.Request) parleytest.Fault {
		return parleytest.Fault{Err: parley.Errorf(parley.CodeNotLeader, "")}
	}
	for _, c := range []struct {
		name  string
		open  bool // the session is open before the trouble begins
		busy  bool // another command without a deadline is already waiting
		judge func(parley.Request) parleytest.Fault
	}{
		{"opening", false, false, never},
		{"another opens", false, true, never},
		{"opening is refused", false, true, notLeader},
		{"no answer", true, false, never},
		{"no answer to the one before", true, true, never},
		{"no leader", true, true, notLeader},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				s := parley.NewSession(f)
				if c.open {
					if _, err := s.Do(t.Context(), text("first")); err != nil {
						t.Fatal(err)
					}
				}
				f.OnStart(c.judge)
				busy, endBusy := context.WithCancel(t.Context())
				defer endBusy()
				if c.busy {
					go s.Do(busy, text("busy"))
					synctest.Wait()
				}
				begin := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := s.Do(ctx, text("x")); parley.CodeOf(err) != parley.CodeNoQuorum {
					t.Errorf("at the deadline: %v", err)
				}
				if d := time.Since(begin); d != time.Second {
					t.Errorf("the deadline of 1 s took %v", d)
				}
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				if _, err := s.Do(ctx, text("x")); !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled: %v", err)
				}
				if _, err := s.Do(ctx, text("x")); !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled before the start: %v", err)
				}
				if d := time.Since(begin); d != 2*time.Second {
					t.Errorf("all took %v", d)
				}
			})
		})
	}
}

// TestSessionSharedContexts: the end of a context ends the commands that were
// started with it, or with one made from it, and no others.
func TestSessionSharedContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := parley.NewSession(f)
		if _, err := s.Do(t.Context(), text("first")); err != nil {
			t.Fatal(err)
		}
		hold := make(chan struct{})
		f.OnStart(func(parley.Request) parleytest.Fault { return parleytest.Fault{Hold: hold} })
		one, endOne := context.WithCancel(t.Context())
		two, endTwo := context.WithCancel(t.Context())
		defer endTwo()
		ctxs := []context.Context{one, two, context.WithValue(one, new(int), 1), context.Background()}
		var mu sync.Mutex
		got := map[int]error{}
		start := func(from, to int) {
			for i := from; i < to; i++ {
				s.Start(ctxs[i%len(ctxs)], text(i), func(_ parley.Result, err error) {
					mu.Lock()
					defer mu.Unlock()
					got[i] = err
				})
			}
		}
		count := func(want int) {
			t.Helper()
			synctest.Wait()
			if len(got) != want {
				t.Fatalf("%d outcomes, want %d", len(got), want)
			}
		}
		start(0, 40)
		count(0)
		endOne()
		count(20)
		start(40, 80)
		count(40) // those of the context that has ended, at once
		close(hold)
		count(80)
		for i, err := range got {
			if ended := ctxs[i%len(ctxs)].Err() != nil; ended != errors.Is(err, context.Canceled) || !ended && err != nil {
				t.Errorf("command %d: %v", i, err)
			}
		}
	})
}

func TestSessionErrorsThatStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := parley.NewSession(f)
		f.OnStart(func(r parley.Request) parleytest.Fault {
			if r.Command == text("bad") {
				return parleytest.Fault{Err: parley.Errorf(parley.CodeUnsupported, "no such thing")}
			}
			return parleytest.Fault{}
		})
		if _, err := s.Do(t.Context(), text("bad")); parley.CodeOf(err) != parley.CodeUnsupported {
			t.Errorf("got %v", err)
		}
		if r, err := s.Do(t.Context(), text("good")); err != nil || r.Code != parley.CodeOK {
			t.Errorf("the next command: %+v, %v", r, err)
		}
		f.SetLimits(parleytest.Limits{Sessions: 1})
		full := parley.NewSession(f)
		if _, err := full.Do(t.Context(), text("x")); parley.CodeOf(err) != parley.CodeTooManySessions {
			t.Errorf("with too many sessions: %v", err)
		}
		f.SetLimits(parleytest.Limits{})
		if _, err := full.Do(t.Context(), text("x")); err != nil {
			t.Errorf("after that: %v", err)
		}
	})
}

func TestSessionClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := parley.NewSession(f)
		if _, err := s.Do(t.Context(), text("first")); err != nil {
			t.Fatal(err)
		}
		f.OnStart(func(r parley.Request) parleytest.Fault {
			if inSession(r) {
				return parleytest.Fault{Err: parley.Errorf(parley.CodeNotLeader, "")}
			}
			return parleytest.Fault{}
		})
		under := make(chan error, 2)
		for range 2 {
			s.Start(t.Context(), text("x"), func(_ parley.Result, err error) { under <- err })
		}
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
		for range 2 {
			if err := <-under; parley.CodeOf(err) != parley.CodeOutcomeUnknown {
				t.Errorf("a command under way: %v", err)
			}
		}
		f.OnStart(nil)
		if _, err := s.Do(t.Context(), text("late")); parley.CodeOf(err) != parley.CodeBadRequest {
			t.Errorf("a command after the end: %v", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("Close again: %v", err)
		}
		time.Sleep(time.Minute)
		if got := bodies(t, f); !slices.Equal(got, []string{"first"}) || f.Sessions() != 0 {
			t.Errorf("in the end: %q, %d sessions", got, f.Sessions())
		}
	})
}

func TestSessionCloseInsists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := parley.NewSession(f)
		if _, err := s.Do(t.Context(), text("first")); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		f.OnStart(func(parley.Request) parleytest.Fault {
			if time.Since(begin) < time.Second {
				return parleytest.Fault{Err: parley.Errorf(parley.CodeNotLeader, "")}
			}
			return parleytest.Fault{}
		})
		if err := s.Close(t.Context()); err != nil || f.Sessions() != 0 {
			t.Errorf("Close: %v, %d sessions", err, f.Sessions())
		}
	})
}

// TestSessionForgets: the watermark follows, so that the service need not keep replies.
func TestSessionForgets(t *testing.T) {
	f := newFake(t)
	s := parley.NewSession(f)
	for i := range uint64(5) {
		f.OnStart(func(r parley.Request) parleytest.Fault {
			if inSession(r) && (r.Seq != i+1 || r.Answered != i) {
				t.Errorf("command %d is number %d with %d answered", i+1, r.Seq, r.Answered)
			}
			return parleytest.Fault{}
		})
		if _, err := s.Do(t.Context(), text(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkSessionStart(b *testing.B) {
	f := parleytest.NewFake()
	defer f.Close()
	s := parley.NewSession(f)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		s.Start(ctx, parley.Ack{User: "nobody"}, func(parley.Result, error) {})
	}
}

// BenchmarkSessionWindow has 256 commands with one context under way.
func BenchmarkSessionWindow(b *testing.B) {
	f := parleytest.NewFake()
	defer f.Close()
	s := parley.NewSession(later{f, make(chan func(), 256)})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		s.Start(ctx, parley.Ack{User: "nobody"}, func(parley.Result, error) {})
	}
}

// later is a service that answers in order, each command when 256 more have come.
type later struct {
	parley.Service
	kept chan func()
}

func (l later) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	if r.Session == 0 {
		l.Service.Start(ctx, r, done)
		return
	}
	if len(l.kept) == cap(l.kept) {
		(<-l.kept)()
	}
	l.kept <- func() { done(parley.Result{}, nil) }
}
