package mux

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley"
)

// eventually polls until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestIdleGoroutines: at each end an idle connection has the goroutine that
// reads, and all together have one that follows the leader, however busy they
// were before. At the end there is none.
func TestIdleGoroutines(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	server := NewServer(ServerConfig{Service: &fake{}, Leadership: new(term).get})
	before := runtime.NumGoroutine() // some of them may be about to end
	const n = 20
	var conns []ends
	for range n {
		conns = append(conns, overTCPTo(t, server, ConnConfig{}))
	}
	for range 3 {
		var busy sync.WaitGroup
		for _, c := range conns {
			for i := range 50 {
				busy.Add(1)
				c.Do(send(uint64(i+1), "x"), func(_ parley.Result, err error) {
					if err != nil {
						t.Error(err)
					}
					busy.Done()
				})
			}
		}
		busy.Wait()
		eventually(t, "only those that read and one more", func() bool { return runtime.NumGoroutine() <= before+2*n+1 })
	}
	for _, c := range conns {
		c.Close() //nolint:errcheck // always nil
		<-c.serve
	}
}

// term is who leads.
type term struct {
	mu      sync.Mutex
	leader  Leader
	changed chan struct{}
}

func (t *term) get() (Leader, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.leader, t.changed
}

func (t *term) set(id string) {
	t.get()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leader = Leader{ID: id, Self: id == "self"}
	close(t.changed)
	t.changed = make(chan struct{})
}

// TestHeraldTellsAll: connections that come and go while the leader changes all
// learn who leads in the end, without repetitions.
func TestHeraldTellsAll(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	leads := &term{leader: Leader{ID: "self", Self: true}}
	server := NewServer(ServerConfig{Service: &fake{}, Leadership: leads.get})
	var mu sync.Mutex
	told := make([]string, 40)
	ids := []string{"n2", "self", "n3", "", "n2", "n3", "n4"}
	var changes, clients sync.WaitGroup
	changes.Go(func() {
		for range 20 {
			for _, id := range ids {
				leads.set(id)
				runtime.Gosched()
			}
		}
	})
	for i := range told {
		clients.Go(func() {
			c := overTCPTo(t, server, ConnConfig{OnRedirect: func(node, _ string) {
				mu.Lock()
				defer mu.Unlock()
				if node == "self" || node == "" {
					t.Errorf("told that %q leads", node)
				}
				told[i] = node
			}})
			if i%2 == 0 { // the other half stays to the end
				c.Close() //nolint:errcheck // always nil
				<-c.serve
				return
			}
			changes.Wait()
			eventually(t, "the last leader is known", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return told[i] == "n4"
			})
			c.Abort(errors.New("enough"))
			<-c.Done()
			<-c.serve
		})
	}
	clients.Wait()
}

// TestSlowReaderOverTCP: what the kernel does not take at once is written by a
// goroutine, all of it and in order; a client that takes nothing is given up.
func TestSlowReaderOverTCP(t *testing.T) {
	const n, size = 2000, 8 << 10
	svc := newShelf()
	large := parley.Result{Detail: string(make([]byte, size))}
	c := overTCP(t, svc, ServerConfig{MaxInFlight: n, MaxBuffered: 1 << 30}, ConnConfig{})
	hold := make(chan struct{})
	var got []uint64
	all := make(chan struct{})
	for i := range uint64(n) {
		c.Do(send(i+1, "x"), func(r parley.Result, err error) {
			<-hold // nothing is read meanwhile
			if err != nil || r.Detail != large.Detail {
				t.Errorf("answer %d: %d bytes, %v", i, len(r.Detail), err)
			}
			if got = append(got, i); len(got) == n {
				close(all)
			}
		})
	}
	eventually(t, "all are started", func() bool { return svc.started() == n })
	svc.mu.Lock()
	kept := svc.kept
	svc.mu.Unlock()
	for _, done := range kept {
		done(large, nil)
	}
	close(hold)
	<-all
	for i := range got {
		if got[i] != uint64(i) {
			t.Fatalf("answer %d came as number %d", got[i], i)
		}
	}
}

// overTCPTo is overTCP for a server that has several connections.
func overTCPTo(t testing.TB, s *Server, cc ConnConfig) ends {
	near, far := loopback(t)
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	serve := make(chan error, 1)
	go func() { serve <- s.Serve(ctx, far, reader(far)) }()
	c := NewConn(near, reader(near), cc)
	t.Cleanup(func() { c.Close() }) //nolint:errcheck // always nil
	return ends{c, stop, serve}
}
