package mux

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// TestInFlight: reading pauses when too much is under way, and goes on.
func TestInFlight(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  ServerConfig
		want int
	}{
		"commands": {ServerConfig{MaxInFlight: 10}, 10},
		"bytes":    {ServerConfig{MaxInFlightBytes: 10_000}, 9},
		"one":      {ServerConfig{MaxInFlightBytes: 1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				svc := newShelf()
				conn := connect(t, svc, c.cfg, ConnConfig{})
				answers := 0
				for i := range 50 {
					conn.Do(send(uint64(i+1), strings.Repeat("x", 1000)), func(parley.Result, error) { answers++ })
				}
				for got := 0; got < 50; got += c.want {
					synctest.Wait()
					if n := svc.started(); n != min(50, got+c.want) {
						t.Fatalf("%d commands started, %d of them answered, want %d", n, got, got+c.want)
					}
					svc.answer(0)
				}
				synctest.Wait()
				if answers != 50 {
					t.Errorf("%d answers", answers)
				}
			})
		})
	}
}

// TestSlowReader: a client that takes no answers stops being read, its watches
// stop, and after WriteTimeout it is closed. What waits for it stays bounded.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 20_000
		var started, yielded, asked atomic.Int64
		detail := strings.Repeat("d", 500)
		svc := &fake{
			start: func(_ context.Context, _ parley.Request, done func(parley.Result, error)) {
				started.Add(1)
				done(parley.Result{Code: parley.CodeMailboxFull, Detail: detail}, nil)
			},
			get: func(context.Context, parley.Query) (parley.Result, error) {
				asked.Add(1)
				return parley.Result{Names: []string{detail}}, nil
			},
			watch: flood(detail, func(int) { yielded.Add(1) }),
		}
		r, serve := connectRaw(t, svc, ServerConfig{MaxBuffered: limit})
		begun := time.Now()
		go func() {
			var b []byte
			b, _ = wire.AppendFrame(b, &wire.Frame{Kind: wire.KindWatch, ID: 1, User: "bob", Credit: 1 << 40})
			for id := uint64(2); ; id++ {
				req := send(id, "x")
				b, _ = wire.AppendDo(b, id, &req)
				b, _ = wire.AppendFrame(b, &wire.Frame{Kind: wire.KindGet, ID: id, Query: parley.Users{}})
				if _, err := r.nc.Write(b); err != nil {
					return
				}
				b = b[:0]
			}
		}()
		time.Sleep(5 * time.Second)
		bytes := (started.Load() + asked.Load() + yielded.Load()) * int64(len(detail))
		if bytes < limit/2 || bytes > limit+5*int64(len(detail)) {
			t.Errorf("%d bytes of answers wait (%d commands, %d queries, %d messages), limit %d",
				bytes, started.Load(), asked.Load(), yielded.Load(), limit)
		}
		err := <-serve
		if took := time.Since(begun); took != 10*time.Second || err == nil || !strings.Contains(err.Error(), "writing to the client") {
			t.Errorf("closed after %v: %v", took, err)
		}
	})
}

// TestQueriesTakeRoomFirst: few pages are computed at a time for one connection.
func TestQueriesTakeRoomFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, small atomic.Int64
		wait := make(chan struct{})
		svc := &fake{get: func(_ context.Context, q parley.Query) (parley.Result, error) {
			n := running.Add(1)
			defer running.Add(-1)
			most.Store(max(most.Load(), n))
			if q.(parley.Inbox).Limit < 0 {
				small.Add(1)
			}
			<-wait
			return parley.Result{Detail: strings.Repeat("x", pageRoom)}, nil
		}}
		c := connect(t, svc, ServerConfig{MaxBuffered: 200 << 10}, ConnConfig{})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := c.Get(context.Background(), parley.Inbox{}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(wait)
		wg.Wait()
		if most.Load() != 3 {
			t.Errorf("%d pages at a time", most.Load())
		}
		wait = make(chan struct{})
		for range 20 {
			wg.Go(func() { c.Get(context.Background(), parley.Inbox{Limit: -1}) }) //nolint:errcheck // not what is tested
		}
		synctest.Wait()
		if small.Load() != 20 {
			t.Errorf("%d small queries at a time", small.Load())
		}
		close(wait)
		wg.Wait()
	})
}

func TestGarbage(t *testing.T) {
	frame := func(f wire.Frame) []byte {
		b, err := wire.AppendFrame(nil, &f)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	watch := frame(wire.Frame{Kind: wire.KindWatch, ID: 1})
	for name, c := range map[string]struct {
		bytes []byte
		says  string
	}{
		"text":             {[]byte("GET / HTTP/1.1\r\n\r\n"), "frame too large"},
		"4 GiB":            {[]byte{255, 255, 255, 255}, "4294967295 bytes, limit 131072"},
		"empty":            {[]byte{0, 0, 0, 0}, "0 bytes"},
		"server's frame":   {frame(wire.Frame{Kind: wire.KindPush, ID: 1}), "from a client"},
		"id 0":             {frame(wire.Frame{Kind: wire.KindCancel}), "id 0"},
		"unknown, id 0":    {[]byte{0, 0, 0, 2, 99, 0}, "unsupported"},
		"watch of same id": {append(watch, watch...), "second watch"},
		"endless credit": {append(watch, append(frame(wire.Frame{Kind: wire.KindCredit, ID: 1, Credit: 1}),
			frame(wire.Frame{Kind: wire.KindCredit, ID: 1, Credit: 1<<64 - 1})...)...), "credit"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, serve := connectRaw(t, &fake{}, ServerConfig{})
				go r.nc.Write(c.bytes) //nolint:errcheck // the server may close before it has read it all
				f := r.expect(wire.KindError, 0)
				if f.Err.Code != parley.CodeBadRequest || !strings.Contains(f.Err.Detail, c.says) {
					t.Errorf("%v, want %q", f.Err, c.says)
				}
				if err := <-serve; parley.CodeOf(err) != parley.CodeBadRequest {
					t.Errorf("Serve: %v", err)
				}
			})
		})
	}
}

// TestSlowBytes: silence and trickling both end by IdleTimeout.
func TestSlowBytes(t *testing.T) {
	ping, _ := wire.AppendFrame(nil, &wire.Frame{Kind: wire.KindPing, ID: 1})
	large := append([]byte{0, 1, 0, 0, byte(wire.KindCall), 1}, make([]byte, 100)...)
	for name, c := range map[string]struct {
		bytes []byte
		every time.Duration
		want  time.Duration
	}{
		"silence":                      {nil, 0, 90 * time.Second},
		"one byte a minute":            {large, time.Minute, 90 * time.Second},
		"one byte a second":            {large, time.Second, 90 * time.Second},
		"a ping in time, then nothing": {ping, 10 * time.Second, 140 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, serve := connectRaw(t, &fake{}, ServerConfig{})
				begun := time.Now()
				go io.Copy(io.Discard, r.nc) //nolint:errcheck // no
				var trickle sync.WaitGroup
				defer trickle.Wait()
				trickle.Go(func() {
					for _, b := range c.bytes {
						if _, err := r.nc.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(c.every)
					}
				})
				err := <-serve
				if took := time.Since(begun); took != c.want {
					t.Errorf("closed after %v", took)
				}
				if parley.CodeOf(err) != parley.CodeInterrupted || !strings.Contains(err.Error(), "no whole frame within 1m30s") {
					t.Errorf("Serve: %v", err)
				}
			})
		})
	}
}

// TestUnknownRequests from newer clients are refused one by one.
func TestUnknownRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := connectRaw(t, &fake{}, ServerConfig{})
		go r.nc.Write([]byte{0, 0, 0, 3, 99, 7, 1, 0, 0, 0, 3, byte(wire.KindGet), 8, 99}) //nolint:errcheck // no
		for _, id := range []uint64{7, 8} {
			if f := r.expect(wire.KindError, id); f.Err.Code != parley.CodeUnsupported {
				t.Errorf("%v", f.Err)
			}
		}
		r.send(wire.Frame{Kind: wire.KindPing, ID: 9})
		r.expect(wire.KindPong, 9)
	})
}

func TestRedirects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		leader, changed := Leader{ID: "n1", Self: true}, make(chan struct{})
		set := func(l Leader) {
			mu.Lock()
			leader = l
			close(changed)
			changed = make(chan struct{})
			mu.Unlock()
			synctest.Wait()
		}
		var told []string
		connect(t, &fake{}, ServerConfig{Leadership: func() (Leader, <-chan struct{}) {
			mu.Lock()
			defer mu.Unlock()
			return leader, changed
		}}, ConnConfig{OnRedirect: func(node, addr string) { told = append(told, node+"@"+addr) }})
		synctest.Wait()
		set(Leader{})
		set(Leader{ID: "n2", Client: "b:1"})
		set(Leader{})
		set(Leader{ID: "n2", Client: "b:1"}) // known
		set(Leader{ID: "n3", Client: "c:1"})
		set(Leader{ID: "n1", Self: true})
		set(Leader{ID: "n3", Client: "c:1"})
		if got := strings.Join(told, " "); got != "n2@b:1 n3@c:1 n3@c:1" {
			t.Errorf("told %q", got)
		}
	})
}
