package mux

import (
	"context"
	"errors"
	"iter"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// overTCP connects a client to svc by loopback.
func overTCP(t testing.TB, svc parley.Service, sc ServerConfig, cc ConnConfig) ends {
	t.Helper()
	near, far := loopback(t)
	stop, serve := serving(t, far, svc, sc)
	c := NewConn(near, reader(near), cc)
	t.Cleanup(func() { c.Close() }) //nolint:errcheck // always nil
	return ends{c, stop, serve}
}

// loopback returns both ends of a TCP connection.
func loopback(t testing.TB) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // no
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// reader is what a gateway reads from.
func reader(nc net.Conn) wire.Buffer { return wire.NewInput(nc, new(wire.Buffers)) }

// busy is a service that answers after a while, from other goroutines.
func busy() *fake {
	var n atomic.Uint64
	return &fake{
		start: func(_ context.Context, r parley.Request, done func(parley.Result, error)) {
			switch n.Add(1) % 4 {
			case 0:
				done(parley.Result{}, parley.Errorf(parley.CodeOverloaded, "no"))
			case 1:
				done(parley.Result{Message: parley.MessageID(r.Seq)}, nil)
			default:
				time.AfterFunc(rand.N(2*time.Millisecond), func() { done(parley.Result{Message: parley.MessageID(r.Seq)}, nil) })
			}
		},
		watch: func(ctx context.Context, _ string, _ parley.Cursor) iter.Seq2[parley.Message, error] {
			return flood("hello", func(int) {})(ctx, "", parley.Cursor{})
		},
	}
}

// TestEverythingAtOnce: commands, queries, calls and watches from many
// goroutines while connections are closed, aborted and drained under them.
// Every callback is made once, nothing hangs, no goroutine is left. For -race.
func TestEverythingAtOnce(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for round := range 12 {
		call := func(_ context.Context, _ string, body []byte) ([]byte, error) { return body, nil }
		c := overTCP(t, busy(), ServerConfig{Call: call, MaxInFlight: 50, MaxBuffered: 4096}, ConnConfig{MaxBuffered: 1 << 20})
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		var wg sync.WaitGroup
		var begun, ended atomic.Int64
		for range 4 {
			wg.Go(func() {
				for seq := uint64(1); ctx.Err() == nil; seq++ {
					begun.Add(1)
					slot := make(chan struct{})
					c.Do(send(seq, "x"), func(r parley.Result, err error) {
						if ended.Add(1); err == nil && r.Message != parley.MessageID(seq) {
							t.Errorf("answer %d for %d", r.Message, seq)
						}
						close(slot)
					})
					if seq%16 == 0 {
						<-slot
					}
				}
			})
			wg.Go(func() {
				for ctx.Err() == nil {
					c.Get(ctx, parley.Users{})        //nolint:errcheck // may fail by now
					c.Call(ctx, "echo", []byte("12")) //nolint:errcheck // may fail by now
				}
			})
			wg.Go(func() {
				for ctx.Err() == nil {
					last := parley.MessageID(0)
					for m, err := range c.Watch(ctx, "bob", parley.Cursor{}) {
						if err != nil {
							break
						}
						if last++; m.ID != last {
							t.Errorf("message %d after %d", m.ID, last-1)
						}
						if last == 500 {
							break
						}
					}
				}
			})
		}
		time.Sleep(rand.N(50 * time.Millisecond)) // any moment will do
		switch round % 4 {
		case 0:
			c.stop()
		case 1:
			c.Abort(errors.New("enough"))
		case 2:
			c.Close() //nolint:errcheck // always nil
		}
		wg.Wait()
		cancel()
		c.Close() //nolint:errcheck // always nil
		if begun.Load() != ended.Load() || begun.Load() == 0 {
			t.Errorf("%d commands, %d callbacks", begun.Load(), ended.Load())
		}
		<-c.serve
	}
}

// benchmarkDo keeps window commands under way.
func benchmarkDo(b *testing.B, window int) {
	c := overTCP(b, &fake{}, ServerConfig{}, ConnConfig{})
	slots := make(chan struct{}, window)
	done := func(_ parley.Result, err error) {
		if err != nil {
			b.Error(err)
		}
		<-slots
	}
	r := send(1, "a message of the usual length, more or less")
	b.ReportAllocs()
	for b.Loop() {
		slots <- struct{}{}
		c.Do(r, done)
	}
	for range window {
		slots <- struct{}{}
	}
}

// BenchmarkDo is a command and its answer over loopback TCP, both ends included.
func BenchmarkDo(b *testing.B) {
	b.Run("window=1", func(b *testing.B) { benchmarkDo(b, 1) })
	b.Run("window=256", func(b *testing.B) { benchmarkDo(b, 256) })
	b.Run("window=4096", func(b *testing.B) { benchmarkDo(b, 4096) })
}

// BenchmarkWatch is a message pushed over loopback TCP, both ends included.
func BenchmarkWatch(b *testing.B) {
	c := overTCP(b, &fake{watch: flood("a message of the usual length, more or less", func(int) {})}, ServerConfig{}, ConnConfig{})
	b.ReportAllocs()
	n := 0
	for _, err := range c.Watch(b.Context(), "bob", parley.Cursor{}) {
		if err != nil {
			b.Fatal(err)
		}
		if n++; n > b.N {
			break
		}
	}
}

// TestAllocations holds a command, at both ends together, to the string and the
// interface of its arguments.
func TestAllocations(t *testing.T) {
	c := overTCP(t, &fake{}, ServerConfig{}, ConnConfig{})
	r := send(1, "hello")
	const n = 100
	answered := make(chan struct{}, 1)
	left := 0
	done := func(parley.Result, error) {
		if left--; left == 0 {
			answered <- struct{}{}
		}
	}
	got := math.Inf(1)
	for range 5 { // the least: on a busy machine fewer commands share a buffer
		got = min(got, testing.AllocsPerRun(50, func() {
			left = n
			for range n {
				c.Do(r, done)
			}
			<-answered
		}))
	}
	if got > 2.9*n {
		t.Errorf("%.1f allocations per command, want 2", got/n)
	}
}
