package mux

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"iter"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

func TestCommandsArriveInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := newShelf()
		c := connect(t, svc, ServerConfig{}, ConnConfig{})
		const n = 3000
		var answered []uint64
		for seq := uint64(1); seq <= n; seq++ {
			c.Do(send(seq, "hello"), func(r parley.Result, err error) {
				if err != nil {
					t.Errorf("%d: %v", seq, err)
				}
				answered = append(answered, seq)
			})
		}
		synctest.Wait()
		for i, r := range svc.seen {
			if r != send(uint64(i+1), "hello") {
				t.Fatalf("command %d is %+v", i+1, r)
			}
		}
		if len(svc.seen) != n {
			t.Fatalf("%d commands arrived", len(svc.seen))
		}
		svc.answer(0)
		synctest.Wait()
		if len(answered) != n || !slices.IsSorted(answered) {
			t.Errorf("%d answers, in order: %v", len(answered), slices.IsSorted(answered))
		}
	})
}

func TestAnswersCarryWhatTheServiceSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got parley.Request
		svc := &fake{start: func(_ context.Context, r parley.Request, done func(parley.Result, error)) {
			switch got = r; r.Command.(type) {
			case parley.Ack:
				done(parley.Result{Code: parley.CodeNoSuchUser, Detail: "no bob"}, nil)
			case parley.OpenSession:
				go done(parley.Result{Session: 9}, nil)
			default:
				done(parley.Result{}, &parley.Error{Code: parley.CodeNotLeader, Leader: "n2"})
			}
		}}
		c := connect(t, svc, ServerConfig{}, ConnConfig{})

		ack := parley.Request{Command: parley.Ack{User: "bob", UpTo: parley.Cursor{Incarnation: 3, ID: 4}}}
		if o := <-c.do(ack); o.err != nil || o.result.Code != parley.CodeNoSuchUser || o.result.Detail != "no bob" || got != ack {
			t.Errorf("ack: %+v; arrived: %+v", o, got)
		}
		if o := <-c.do(parley.Request{Command: parley.OpenSession{}}); o.err != nil || o.result.Session != 9 {
			t.Errorf("open: %+v", o)
		}
		var e *parley.Error
		if o := <-c.do(send(1, "x")); !errors.As(o.err, &e) || e.Code != parley.CodeNotLeader || e.Leader != "n2" {
			t.Errorf("send: %+v", o)
		}
	})
}

// TestCallbacksMayCall: no lock is held while a callback runs.
func TestCallbacksMayCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, &fake{}, ServerConfig{}, ConnConfig{})
		done := make(chan struct{})
		c.Do(send(1, "x"), func(parley.Result, error) {
			c.Do(send(2, "x"), func(parley.Result, error) {
				c.Abort(errors.New("enough"))
				c.Do(send(3, "x"), func(_ parley.Result, err error) {
					if parley.CodeOf(err) != parley.CodeShuttingDown {
						t.Errorf("after Abort: %v", err)
					}
					close(done)
				})
			})
		})
		<-done
		<-c.Done()
		if err := c.Err(); err == nil || err.Error() != "enough" {
			t.Errorf("Err is %v", err)
		}
	})
}

func TestGetAndCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := make(chan struct{})
		svc := &fake{get: func(_ context.Context, q parley.Query) (parley.Result, error) {
			switch q := q.(type) {
			case parley.Users:
				return parley.Result{Names: []string{q.Pattern}, More: true}, nil
			case parley.Status:
				<-wait
			}
			return parley.Result{}, parley.Errorf(parley.CodeNoQuorum, "alone")
		}}
		call := func(_ context.Context, method string, body []byte) ([]byte, error) {
			if method == "fail" {
				return nil, parley.Errorf(parley.CodeNotLeader, "no")
			}
			return append([]byte(method), body...), nil
		}
		c := connect(t, svc, ServerConfig{Call: call}, ConnConfig{})
		ctx := context.Background()

		if r, err := c.Get(ctx, parley.Users{Pattern: "^a"}); err != nil || r.Names[0] != "^a" || !r.More {
			t.Errorf("%+v, %v", r, err)
		}
		if _, err := c.Get(ctx, parley.Inbox{}); parley.CodeOf(err) != parley.CodeNoQuorum {
			t.Errorf("%v", err)
		}
		if b, err := c.Call(ctx, "echo", []byte("abc")); err != nil || !bytes.Equal(b, []byte("echoabc")) {
			t.Errorf("%q, %v", b, err)
		}
		if _, err := c.Call(ctx, "fail", nil); parley.CodeOf(err) != parley.CodeNotLeader {
			t.Errorf("%v", err)
		}

		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := c.Get(short, parley.Status{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		close(wait) // the late answer goes nowhere
		if _, err := c.Get(ctx, parley.Users{}); err != nil {
			t.Errorf("after a late answer: %v", err)
		}
	})
}

func TestCallsAreForMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, &fake{}, ServerConfig{}, ConnConfig{})
		if _, err := c.Call(context.Background(), "x", nil); parley.CodeOf(err) != parley.CodeUnsupported {
			t.Errorf("%v", err)
		}
	})
}

func TestLostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := NewConn(near, bufio.NewReader(near), ConnConfig{})
		defer c.Close() //nolint:errcheck // always nil
		go readAll(far)
		var lost []int
		for i := range 100 {
			c.Do(send(uint64(i+1), "x"), func(_ parley.Result, err error) {
				if parley.CodeOf(err) != parley.CodeInterrupted {
					t.Errorf("%v", err)
				}
				lost = append(lost, i)
			})
		}
		got := make(chan error, 2)
		go func() {
			_, err := c.Get(context.Background(), parley.Status{})
			got <- err
		}()
		go func() {
			for _, err := range c.Watch(context.Background(), "bob", parley.Cursor{}) {
				got <- err
			}
		}()
		synctest.Wait()
		far.Close() //nolint:errcheck // no
		<-c.Done()
		if len(lost) != 100 || !slices.IsSorted(lost) {
			t.Errorf("lost: %v", lost)
		}
		for range 2 {
			if err := <-got; parley.CodeOf(err) != parley.CodeInterrupted {
				t.Errorf("%v", err)
			}
		}
		if c.Err() == nil {
			t.Error("Err is nil")
		}
		ch := make(chan error, 1)
		c.Do(send(1, "x"), func(_ parley.Result, err error) { ch <- err })
		if err := <-ch; parley.CodeOf(err) != parley.CodeShuttingDown {
			t.Errorf("Do afterwards: %v", err)
		}
		if _, err := c.Get(context.Background(), parley.Status{}); parley.CodeOf(err) != parley.CodeShuttingDown {
			t.Errorf("Get afterwards: %v", err)
		}
	})
}

// readAll reads whatever comes.
func readAll(nc net.Conn) {
	b := make([]byte, 4096)
	for {
		if _, err := nc.Read(b); err != nil {
			return
		}
	}
}

func TestCloseIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := newShelf()
		c := connect(t, svc, ServerConfig{}, ConnConfig{})
		o := c.do(send(1, "x"))
		synctest.Wait()
		c.Close() //nolint:errcheck // always nil
		if got := <-o; parley.CodeOf(got.err) != parley.CodeInterrupted {
			t.Errorf("%+v", got)
		}
		if c.Err() != nil {
			t.Errorf("Err is %v", c.Err())
		}
		synctest.Wait()
		svc.answer(0) // the service comes too late, and must not mind
		if err := <-c.serve; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// TestStuckServer: what a server does not take is bounded by MaxBuffered, and
// the server is given up after WriteTimeout.
func TestStuckServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close() //nolint:errcheck // no
		c := NewConn(near, bufio.NewReader(near), ConnConfig{MaxBuffered: 10_000})
		defer c.Close() //nolint:errcheck // always nil
		overloaded := 0
		for range 1000 {
			c.Do(send(1, strings.Repeat("x", 100)), func(_ parley.Result, err error) {
				if parley.CodeOf(err) == parley.CodeOverloaded {
					overloaded++
				}
			})
		}
		if overloaded < 900 || overloaded > 920 {
			t.Errorf("%d of 1,000 commands refused", overloaded)
		}
		if _, err := c.Get(context.Background(), parley.Status{}); parley.CodeOf(err) != parley.CodeOverloaded {
			t.Errorf("Get: %v", err)
		}
		for _, err := range c.Watch(context.Background(), "bob", parley.Cursor{}) {
			if parley.CodeOf(err) != parley.CodeOverloaded {
				t.Errorf("Watch: %v", err)
			}
		}
		start := time.Now()
		<-c.Done()
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("given up after %v", took)
		}
	})
}

func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close() //nolint:errcheck // no
		go readAll(far)
		c := NewConn(near, bufio.NewReader(near), ConnConfig{})
		defer c.Close() //nolint:errcheck // always nil
		start := time.Now()
		<-c.Done()
		if took := time.Since(start); took != 90*time.Second {
			t.Errorf("given up after %v", took)
		}
	})
}

// A server that is hurried and says nothing is given up soon; one that answers the
// ping is not, and may be silent again for as long as ever.
func TestHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close() //nolint:errcheck // no
		go readAll(far)
		c := NewConn(near, bufio.NewReader(near), ConnConfig{})
		defer c.Close() //nolint:errcheck // always nil
		time.Sleep(time.Minute)
		start := time.Now()
		c.Hurry(5 * time.Second)
		time.Sleep(time.Second)
		c.Hurry(5 * time.Second)
		<-c.Done()
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("given up after %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, &fake{}, ServerConfig{}, ConnConfig{})
		for range 3 {
			c.Hurry(5 * time.Second)
			time.Sleep(time.Hour)
			c.Hurry(5 * time.Second)
		}
		if o := <-c.do(send(7, "x")); o.err != nil || o.result.Message != 7 {
			t.Errorf("%+v", o)
		}
	})
}

// TestPingsKeepAConnection for hours over which nobody says anything.
func TestPingsKeepAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, &fake{}, ServerConfig{}, ConnConfig{})
		time.Sleep(5 * time.Hour)
		if o := <-c.do(send(7, "x")); o.err != nil || o.result.Message != 7 {
			t.Errorf("%+v", o)
		}
	})
}

func TestCommandTooLargeIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := newShelf()
		c := connect(t, svc, ServerConfig{}, ConnConfig{MaxFrame: 1000})
		if o := <-c.do(send(1, strings.Repeat("x", 1000))); parley.CodeOf(o.err) != parley.CodeBadRequest {
			t.Errorf("%+v", o)
		}
		if o := <-c.do(parley.Request{}); parley.CodeOf(o.err) != parley.CodeUnsupported {
			t.Errorf("without a command: %+v", o)
		}
		c.Do(send(2, "x"), func(parley.Result, error) {})
		synctest.Wait()
		if len(svc.seen) != 1 || svc.seen[0].Seq != 2 {
			t.Errorf("arrived: %v", svc.seen)
		}
	})
}

// TestServerThatBreaksTheProtocol is left.
func TestServerThatBreaksTheProtocol(t *testing.T) {
	push := func(n int) wire.Frame {
		return wire.Frame{Kind: wire.KindPush, ID: 3, Messages: make([]parley.Message, n)}
	}
	for name, frames := range map[string][]wire.Frame{
		"result for a call":   {{Kind: wire.KindResult, ID: 1}},
		"reply for a command": {{Kind: wire.KindReply, ID: 2}},
		"push beyond credit":  {push(watchWindow + 1)},
		"one push too many":   {push(watchWindow), push(1)},
		"client's frame":      {{Kind: wire.KindCancel, ID: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer far.Close() //nolint:errcheck // no
				go readAll(far)
				c := NewConn(near, bufio.NewReader(near), ConnConfig{})
				defer c.Close()                           //nolint:errcheck // always nil
				go c.Call(context.Background(), "x", nil) //nolint:errcheck // not what is tested
				synctest.Wait()
				called := 0
				c.Do(send(1, "x"), func(parley.Result, error) { called++ })
				next, stop := iter.Pull2(c.Watch(context.Background(), "bob", parley.Cursor{}))
				defer stop()
				go next() // as far as the first message
				synctest.Wait()
				var b []byte
				for i := range frames {
					b, _ = wire.AppendFrame(b, &frames[i])
				}
				far.Write(b) //nolint:errcheck // the client may close before it has read it all
				<-c.Done()
				synctest.Wait()
				if called != 1 {
					t.Errorf("the command's callback was made %d times", called)
				}
				if !errors.Is(c.Err(), wire.ErrMalformed) {
					t.Errorf("Err is %v", c.Err())
				}
			})
		})
	}
}
