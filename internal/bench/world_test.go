package bench_test

import (
	"context"
	"iter"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/bench"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport/tcp"
)

// world is a fake behind a real gateway.
type world struct {
	t    *testing.T
	fake *parleytest.Fake
	addr string

	// What the fake was asked.
	sends, inboxes atomic.Int64
	mu             sync.Mutex
	conns          []net.Conn
	afters         map[string]int // Users by After
}

// slow is a service whose outcomes and pushes come late, or never.
type slow struct {
	parley.Service
	delay func(parley.Command) time.Duration // of outcomes; nil: none
	show  func(parley.Message) bool          // nil: all
	push  time.Duration                      // delay of pushes
}

func (s slow) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	if s.delay == nil {
		s.Service.Start(ctx, r, done)
		return
	}
	d := s.delay(r.Command)
	s.Service.Start(ctx, r, func(res parley.Result, err error) {
		time.AfterFunc(d, func() { done(res, err) })
	})
}

func (s slow) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		for m, err := range s.Service.Watch(ctx, user, after) {
			if err == nil && s.show != nil && !s.show(m) {
				continue
			}
			if s.push > 0 {
				<-time.After(s.push)
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

func newWorld(t *testing.T, how slow) *world {
	w := &world{t: t, fake: parleytest.NewFake(), afters: make(map[string]int)}
	t.Cleanup(w.fake.Close)
	how.Service = w.fake
	w.fake.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.Send); ok {
			w.sends.Add(1)
		}
		return parleytest.Fault{}
	})
	w.fake.OnGet(func(q parley.Query) error {
		switch q := q.(type) {
		case parley.Users:
			w.mu.Lock()
			w.afters[q.After]++
			w.mu.Unlock()
		case parley.Inbox:
			if q.Limit > 0 {
				w.inboxes.Add(1)
			}
		}
		return nil
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	g := tcp.New(tcp.Config{Service: how, NodeID: "n1"})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.conns = append(w.conns, nc)
			w.mu.Unlock()
			wg.Go(func() { g.Handle(ctx, nc) })
		}
	})
	t.Cleanup(func() {
		cancel()
		ln.Close()
		wg.Wait()
	})
	return w
}

func (w *world) dial(connected func(bool)) (bench.Client, error) {
	return client.New(client.Config{Servers: []string{w.addr}, Events: func(e client.Event) {
		if connected != nil && (e.Kind == client.Connected || e.Kind == client.Lost) {
			connected(e.Kind == client.Connected)
		}
	}})
}

// run runs a bench, which must succeed, and checks that nothing is left of it.
func (w *world) run(cfg bench.Config) bench.Report {
	w.t.Helper()
	cfg.Dial = w.dial
	report, err := bench.Run(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatalf("%v; report %+v", err, report)
	}
	w.checkClean()
	return report
}

func (w *world) checkClean() {
	w.t.Helper()
	res, err := w.fake.Get(context.Background(), parley.Users{})
	if err != nil || len(res.Names) > 0 {
		w.t.Errorf("users are left: %q, %v", res.Names, err)
	}
	if n := w.fake.Sessions(); n > 0 {
		w.t.Errorf("%d sessions are left", n)
	}
}
