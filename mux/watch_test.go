package mux

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

func TestWatchYieldsEverythingInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, &fake{watch: flood("hello", func(int) {})}, ServerConfig{}, ConnConfig{})
		n := parley.MessageID(10)
		for m, err := range c.Watch(context.Background(), "bob", parley.Cursor{Incarnation: 1, ID: n}) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; m.ID != n || m.Body != "hello" {
				t.Fatalf("%+v, want message %d", m, n)
			}
			if n == 5000 {
				break
			}
		}
	})
}

// TestWatchWindow: a consumer that stops makes the service's sequence stop.
func TestWatchWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var yielded atomic.Int64
		c := connect(t, &fake{watch: flood("x", func(n int) { yielded.Store(int64(n)) })}, ServerConfig{}, ConnConfig{})
		next, stop := iter.Pull2(c.Watch(context.Background(), "bob", parley.Cursor{}))
		defer stop()
		for consumed := range int64(1000) {
			next()
			synctest.Wait()
			if got := yielded.Load(); got > consumed+watchWindow+1 {
				t.Fatalf("%d messages taken from the service after %d were consumed", got, consumed)
			}
			if got := yielded.Load(); got < consumed+watchWindow/2 {
				t.Fatalf("only %d messages taken from the service after %d were consumed", got, consumed)
			}
		}
	})
}

func TestWatchEnds(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want parley.Code
	}{
		"no such user":   {parley.Errorf(parley.CodeNoSuchUser, "no bob"), parley.CodeNoSuchUser},
		"not leader":     {parley.Errorf(parley.CodeNotLeader, ""), parley.CodeNotLeader},
		"any error":      {errors.New("oops"), parley.CodeInterrupted},
		"without reason": {nil, parley.CodeInterrupted},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				svc := &fake{watch: func(context.Context, string, parley.Cursor) iter.Seq2[parley.Message, error] {
					return func(yield func(parley.Message, error) bool) {
						if yield(parley.Message{Body: "last"}, nil) && c.err != nil {
							yield(parley.Message{}, c.err)
						}
					}
				}}
				conn := connect(t, svc, ServerConfig{}, ConnConfig{})
				var got []string
				for m, err := range conn.Watch(context.Background(), "bob", parley.Cursor{}) {
					got = append(got, fmt.Sprint(m.Body, parley.CodeOf(err)))
				}
				if want := fmt.Sprint([]string{"last" + parley.CodeOK.String(), c.want.String()}); fmt.Sprint(got) != want {
					t.Errorf("%v, want %v", got, want)
				}
			})
		})
	}
}

// TestLeavingAWatch: breaking out of the loop and the end of its context both
// end the service's sequence, and the connection lives on.
func TestLeavingAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int64
		svc := &fake{watch: func(ctx context.Context, user string, _ parley.Cursor) iter.Seq2[parley.Message, error] {
			return func(yield func(parley.Message, error) bool) {
				running.Add(1)
				defer running.Add(-1)
				if user == "quiet" || yield(parley.Message{}, nil) {
					<-ctx.Done()
					yield(parley.Message{}, context.Cause(ctx))
				}
			}
		}}
		c := connect(t, svc, ServerConfig{}, ConnConfig{})
		for range c.Watch(context.Background(), "bob", parley.Cursor{}) {
			break
		}
		synctest.Wait()
		if n := running.Load(); n != 0 {
			t.Errorf("%d sequences run after a break", n)
		}

		ctx, cancel := context.WithCancelCause(context.Background())
		ended := make(chan error)
		go func() {
			for _, err := range c.Watch(ctx, "quiet", parley.Cursor{}) {
				ended <- err
			}
		}()
		synctest.Wait()
		if n := running.Load(); n != 1 {
			t.Fatalf("%d sequences run", n)
		}
		why := errors.New("why")
		cancel(why)
		if err := <-ended; err != why {
			t.Errorf("ended by %v", err)
		}
		synctest.Wait()
		if n := running.Load(); n != 0 {
			t.Errorf("%d sequences run after the context ended", n)
		}
		if o := <-c.do(send(1, "x")); o.err != nil {
			t.Error(o.err)
		}
	})
}

func TestTooManyWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, &fake{watch: flood("x", func(int) {})}, ServerConfig{MaxWatches: 3}, ConnConfig{})
		var stops []func()
		for range 3 {
			next, stop := iter.Pull2(c.Watch(context.Background(), "bob", parley.Cursor{}))
			stops = append(stops, stop)
			if _, err, ok := next(); err != nil || !ok {
				t.Fatal(err)
			}
		}
		for _, err := range c.Watch(context.Background(), "bob", parley.Cursor{}) {
			if parley.CodeOf(err) != parley.CodeOverloaded {
				t.Fatalf("the fourth watch: %v", err)
			}
		}
		for _, stop := range stops {
			stop()
		}
		synctest.Wait()
		for _, err := range c.Watch(context.Background(), "bob", parley.Cursor{}) {
			if err != nil {
				t.Errorf("after the others have ended: %v", err)
			}
			break
		}
	})
}

// TestMessageTooLargeForTheConnection ends the watch, not the connection.
func TestMessageTooLargeForTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := &fake{watch: flood(strings.Repeat("x", 1000), func(int) {})}
		svc.get = func(context.Context, parley.Query) (parley.Result, error) {
			return parley.Result{Names: []string{strings.Repeat("x", 1000)}}, nil
		}
		call := func(context.Context, string, []byte) ([]byte, error) { return make([]byte, 1000), nil }
		c := connect(t, svc, ServerConfig{MaxFrame: 500, Call: call}, ConnConfig{})
		for _, err := range c.Watch(context.Background(), "bob", parley.Cursor{}) {
			if parley.CodeOf(err) != parley.CodeBadRequest {
				t.Fatal(err)
			}
		}
		if _, err := c.Get(context.Background(), parley.Users{}); parley.CodeOf(err) != parley.CodeBadRequest {
			t.Errorf("query: %v", err)
		}
		if _, err := c.Call(context.Background(), "x", nil); parley.CodeOf(err) != parley.CodeBadRequest {
			t.Errorf("call: %v", err)
		}
		if o := <-c.do(send(1, "x")); o.err != nil {
			t.Error(o.err)
		}
	})
}

// TestCredit: the server sends no more than it is allowed, and takes credit and
// cancellation of watches that have ended.
func TestCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var yielded atomic.Int64
		r, _ := connectRaw(t, &fake{watch: flood("x", func(n int) { yielded.Store(int64(n)) })}, ServerConfig{})
		r.send(wire.Frame{Kind: wire.KindWatch, ID: 1, User: "bob", Credit: 2})
		r.expect(wire.KindPush, 1)
		r.expect(wire.KindPush, 1)
		synctest.Wait()
		if yielded.Load() != 3 {
			t.Errorf("%d messages taken", yielded.Load())
		}
		r.send(wire.Frame{Kind: wire.KindPing, ID: 5}) // nothing but the pong follows
		r.expect(wire.KindPong, 5)
		r.send(wire.Frame{Kind: wire.KindCredit, ID: 1, Credit: 1})
		if f := r.expect(wire.KindPush, 1); f.Messages[0].ID != 3 {
			t.Errorf("%+v", f.Messages)
		}
		r.send(wire.Frame{Kind: wire.KindCancel, ID: 1}, wire.Frame{Kind: wire.KindCancel, ID: 1},
			wire.Frame{Kind: wire.KindCredit, ID: 1, Credit: 1}, wire.Frame{Kind: wire.KindPing, ID: 6})
		r.expect(wire.KindPong, 6)
		r.send(wire.Frame{Kind: wire.KindWatch, ID: 1, User: "bob", Credit: 1}) // the id is free again
		r.expect(wire.KindPush, 1)
	})
}
