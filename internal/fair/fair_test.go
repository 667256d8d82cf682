package fair

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A flow that wants little hardly waits behind a hundred that want everything,
// and those share what there is.
func TestGateIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, greedy = 4, 100
		g := NewGate(size)
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

// While a crowd waits, no more is under way than is done in good time; when it has
// gone, the bound is what it was.
func TestGateAdapts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 1024
		g := NewGate(most)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		server := make(chan struct{}, 1) // does one thing after the other, 10,000 a second
		for range 2000 {
			wg.Go(func() {
				var f Flow
				for ctx.Err() == nil {
					pass, err := g.Enter(ctx, &f, true)
					if err != nil {
						return
					}
					server <- struct{}{}
					time.Sleep(100 * time.Microsecond)
					<-server
					pass.Leave()
				}
			})
		}
		time.Sleep(3 * time.Second)
		g.mu.Lock()
		if size := g.size.Load(); size < 100 || size > 300 { // 25 ms are 250
			t.Errorf("with a crowd the bound is %d", size)
		}
		g.mu.Unlock()
		cancel()
		wg.Wait()
		var f Flow
		for range 10 {
			pass, err := g.Enter(t.Context(), &f, false)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * look)
			pass.Leave()
		}
		if g.size.Load() != most || g.in.Load() != 0 || g.Waiting() != 0 {
			t.Errorf("at rest the bound is %d, %d are in, %d wait", g.size.Load(), g.in.Load(), g.Waiting())
		}
	})
}

// Who gives up leaves no gap, whenever it happens.
func TestGateGivenUp(t *testing.T) {
	g := NewGate(1)
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

// So much at a time, and half of the time while many wait.
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
		// Pairs; after those that leave more than 3 waiting there is a second of rest.
		if took := time.Since(began); took < 8*time.Second || took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		time.Sleep(2 * time.Second) // the last rest
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		full := NewShare(1, 1)
		full.places <- struct{}{}
		if err := full.Do(ctx, func() { t.Error("worked") }); err == nil || full.Waiting() != 0 {
			t.Errorf("given up: %v, %d wait", err, full.Waiting())
		}
	})
}
