package fair

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever sleeps in these tests does so in virtual time (testing/synctest).

// A flow that wants little hardly waits behind a hundred that want everything,
// and those share what there is.
func TestGateIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, greedy = 4, 100
		g := NewGate(size, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var served [greedy]atomic.Int64
		work := func(f *Flow, backlog bool) error {
			pass, err := g.Enter(ctx, f, backlog)
			if err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
			pass.Leave()
			return nil
		}
		for i := range greedy {
			wg.Go(func() {
				var f Flow
				for ctx.Err() == nil && work(&f, true) == nil {
					served[i].Add(1)
				}
			})
		}
		time.Sleep(time.Second)
		var modest Flow
		for range 20 {
			began := time.Now()
			if err := work(&modest, false); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 2*time.Millisecond { // its own, and one that was under way
				t.Errorf("a modest flow took %v", took)
			}
			time.Sleep(50 * time.Millisecond)
		}
		cancel()
		wg.Wait()
		for i := range served {
			if n, share := served[i].Load(), int64(2050*size/greedy); n < share*9/10 || n > share*11/10 {
				t.Errorf("flow %d was served %d times, its share is %d", i, n, share)
			}
		}
		if g.in.Load() != 0 || g.Waiting() != 0 {
			t.Errorf("%d are in, %d wait", g.in.Load(), g.Waiting())
		}
	})
}

// A server does one thing after the other.
type server chan struct{}

func (s server) work(each time.Duration) {
	s <- struct{}{}
	time.Sleep(each)
	<-s
}

// Floods that fit into the gate make the line behind it long. Those who send now
// and then hardly notice, the others go on, and when the former have gone, get all.
func TestGateHasAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const floods, each = 1000, 100 * time.Microsecond
		g, s := NewGate(4096, nil), make(server, 1)
		var modest Flow
		send := func() time.Duration {
			began := time.Now()
			pass, err := g.Enter(t.Context(), &modest, false)
			if err != nil {
				t.Error(err)
				return 0
			}
			s.work(each)
			pass.Leave()
			return time.Since(began)
		}
		for range 200 { // nothing is in its way
			send()
			time.Sleep(5 * time.Millisecond)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var done atomic.Int64
		for range floods {
			wg.Go(func() {
				var f Flow
				for ctx.Err() == nil {
					pass, err := g.Enter(ctx, &f, true)
					if err != nil {
						return
					}
					s.work(each)
					pass.Leave()
					done.Add(1)
				}
			})
		}
		time.Sleep(time.Second)
		if took := send(); took < 90*time.Millisecond {
			t.Errorf("the flood lets one pass in %v: no flood", took)
		}
		until := time.Now().Add(2 * time.Second)
		for time.Now().Before(until) {
			send()
			time.Sleep(5 * time.Millisecond)
		}
		done.Store(0)
		var worst, sum time.Duration
		for range 1000 {
			took := send()
			worst, sum = max(worst, took), sum+took
			time.Sleep(5 * time.Millisecond)
		}
		rate := float64(done.Load()) / (sum + 5*time.Second).Seconds()
		t.Logf("mean %v, worst %v, pace %.0f, floods %.0f/s", sum/1000, worst, g.Pace(), rate)
		if mean := sum / 1000; mean > 2*first {
			t.Errorf("modest commands take %v", mean)
		}
		if worst > 10*first {
			t.Errorf("a modest command took %v", worst)
		}
		if most := float64(time.Second / each); rate < most/4 {
			t.Errorf("floods are let in at %.0f a second of %.0f", rate, most)
		}
		time.Sleep(2 * linger)
		done.Store(0)
		time.Sleep(time.Second)
		if most := int64(time.Second / each); done.Load() < most*99/100 || g.Pace() != 0 {
			t.Errorf("nobody else sends, and floods are let in at %d a second of %d; the pace is %.0f", done.Load(), most, g.Pace())
		}
		cancel()
		wg.Wait()
		if g.in.Load() != 0 || g.Waiting() != 0 {
			t.Errorf("at rest, %d are in, %d wait", g.in.Load(), g.Waiting())
		}
	})
}

// A few that send all they can are no crowd, and who waits for no answer is not heard.
func TestGateWithoutPace(t *testing.T) {
	for name, floods := range map[string]int{"few": crowd - 1, "unasked": 4 * crowd} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const each = 100 * time.Microsecond
				g, s := NewGate(4096, nil), make(server, 1)
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				for i := range floods + 1 {
					wg.Go(func() {
						var f Flow
						for ctx.Err() == nil {
							pass, err := g.Enter(ctx, &f, i > 0)
							if err != nil {
								return
							}
							if i == 0 && floods >= crowd {
								pass = pass.Unasked()
							}
							s.work(each)
							pass.Leave()
							if i == 0 {
								time.Sleep(step)
							}
							if g.Pace() != 0 {
								t.Errorf("the pace is %.0f", g.Pace())
								cancel()
							}
						}
					})
				}
				time.Sleep(3 * time.Second)
				cancel()
				wg.Wait()
			})
		})
	}
}

// A question needs no place among the commands; a flood of questions has the pace.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, nil)
		var f, flood Flow
		pass, err := g.Enter(t.Context(), &f, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Turn(t.Context(), &f, false); err != nil {
			t.Errorf("a question beside a full gate: %v", err)
		}
		pass.Leave()
		g.pace.on.Store(true)
		g.pace.rate = slowest
		flood.excused(true) // its only excuse
		began := time.Now()
		for range 200 {
			g.pace.last.Store(int64(time.Since(g.pace.start))) // nobody looks at the pace
			if err := g.Turn(t.Context(), &flood, true); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 900*time.Millisecond || took > 1100*time.Millisecond {
			t.Errorf("200 questions of a flood took %v at a pace of %.0f", took, slowest)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Turn(ctx, &flood, true); err == nil {
			if err = g.Turn(ctx, &flood, true); err == nil {
				t.Error("it waits for nothing")
			}
		}
		if g.in.Load() != 0 || g.Waiting() != 0 {
			t.Errorf("at rest, %d are in, %d wait", g.in.Load(), g.Waiting())
		}
	})
}

// A flow that sends now and then is excused when it seems to have a backlog, for a
// while; one that sends two at a time is not.
func TestExcused(t *testing.T) {
	var modest, pairs Flow
	for range 100 {
		modest.excused(false)
		pairs.excused(false)
		pairs.excused(true)
	}
	for i := range (mostCredit + excuse) / excuse {
		if excused, _ := modest.excused(true); !excused {
			t.Fatalf("not excused after %d times", i)
		}
	}
	if excused, _ := modest.excused(true); excused {
		t.Error("excused for ever")
	}
	if excused, known := pairs.excused(true); excused || known {
		t.Error("one that sends two at a time sends now and then")
	}
}

// Where the line is another node's, a flood itself tells how long it is; and bursts
// of a few, as of clients with a window, are not taken for those who send now and then.
func TestGateElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const floods, each = 500, 100 * time.Microsecond
		var leads atomic.Bool
		g, s := NewGate(4096, leads.Load), make(server, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range floods {
			wg.Go(func() {
				var f Flow
				for n := 0; ctx.Err() == nil; n++ {
					pass, err := g.Enter(ctx, &f, n%3 != 0)
					if err != nil {
						return
					}
					s.work(each)
					pass.Leave()
				}
			})
		}
		time.Sleep(5 * time.Second)
		if n := g.in.Load(); n > floods/2 {
			t.Errorf("%d of %d are in the other's line", n, floods)
		}
		if g.Pace() == 0 {
			t.Error("there is no pace")
		}
		leads.Store(true)
		time.Sleep(2 * linger)
		if g.Pace() != 0 {
			t.Errorf("the pace is %.0f, and nobody is there who sends now and then", g.Pace())
		}
		cancel()
		wg.Wait()
	})
}

// Who gives up leaves no gap, whenever it happens.
func TestGateGivenUp(t *testing.T) {
	g := NewGate(1, nil)
	var wg sync.WaitGroup
	var in atomic.Int64
	for i := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*10*time.Microsecond)
			defer cancel()
			var f Flow
			for range 20 {
				pass, err := g.Enter(ctx, &f, i%2 == 0)
				if err != nil {
					return
				}
				if in.Add(1) > 1 {
					t.Error("two at a time")
				}
				in.Add(-1)
				pass.Leave()
			}
		})
	}
	wg.Wait()
	if g.in.Load() != 0 || g.Waiting() != 0 {
		t.Errorf("%d are in, %d wait", g.in.Load(), g.Waiting())
	}
	var none *Gate
	pass, err := none.Enter(t.Context(), nil, true)
	if err != nil {
		t.Error(err)
	}
	pass.Leave()
}

// So much at a time, and the less of the time the more wait.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShare(2, 3)
		began := time.Now()
		var wg sync.WaitGroup
		var at atomic.Int64
		for range 11 {
			wg.Go(func() {
				err := s.Do(t.Context(), func() {
					if at.Add(1) > 2 {
						t.Error("three at a time")
					}
					time.Sleep(time.Second)
					at.Add(-1)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		// Six pairs; after those that leave 9, 7 and 5 waiting there are 3, 2 and 1 s of rest.
		if took := time.Since(began); took != 12*time.Second {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		full := NewShare(1, 1)
		full.places <- struct{}{}
		if err := full.Do(ctx, func() { t.Error("worked") }); err == nil || full.Waiting() != 0 {
			t.Errorf("given up: %v, %d wait", err, full.Waiting())
		}
	})
}
