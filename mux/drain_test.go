package mux

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// TestDrain: commands under way are answered, the client knows why the
// connection ends, and nothing new is begun.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := newShelf()
		c := connect(t, svc, ServerConfig{}, ConnConfig{})
		under := c.do(send(1, "x"))
		watch := make(chan error, 1)
		go func() {
			for _, err := range c.Watch(context.Background(), "bob", parley.Cursor{}) {
				watch <- err
			}
		}()
		synctest.Wait()
		c.stop()
		synctest.Wait()
		if o := <-c.do(send(2, "x")); parley.CodeOf(o.err) != parley.CodeShuttingDown {
			t.Errorf("a new command: %+v", o)
		}
		if err := <-watch; parley.CodeOf(err) != parley.CodeShuttingDown {
			t.Errorf("the watch: %v", err)
		}
		svc.answer(0)
		if o := <-under; o.err != nil {
			t.Errorf("the command under way: %+v", o)
		}
		<-c.Done()
		if parley.CodeOf(c.Err()) != parley.CodeShuttingDown {
			t.Errorf("Err is %v", c.Err())
		}
		if err := <-c.serve; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// TestDrainIsBounded: commands that are never answered hold nothing up for long.
func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		svc := &fake{start: func(ctx context.Context, _ parley.Request, _ func(parley.Result, error)) {
			context.AfterFunc(ctx, func() { ended <- ctx.Err() })
		}}
		c := connect(t, svc, ServerConfig{}, ConnConfig{})
		o := c.do(send(1, "x"))
		synctest.Wait()
		begun := time.Now()
		c.stop()
		if got := <-o; parley.CodeOf(got.err) != parley.CodeInterrupted {
			t.Errorf("%+v", got)
		}
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("after %v", took)
		}
		<-ended // the command's context
	})
}

// TestDrainAtOnce: ctx may end at any moment, before the first read too.
func TestDrainAtOnce(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			c := connect(t, &fake{}, ServerConfig{}, ConnConfig{})
			c.stop()
			<-c.Done()
			if took := time.Since(begun); took != 0 {
				t.Errorf("after %v", took)
			}
		})
	}
}

// TestDrainWhileReadingIsPaused: a full connection drains as well.
func TestDrainWhileReadingIsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := newShelf()
		c := connect(t, svc, ServerConfig{MaxInFlight: 1}, ConnConfig{})
		first, second := c.do(send(1, "x")), c.do(send(2, "x"))
		synctest.Wait()
		c.stop()
		synctest.Wait()
		svc.answer(0)
		if o := <-first; o.err != nil {
			t.Errorf("%+v", o)
		}
		if o := <-second; parley.CodeOf(o.err) != parley.CodeInterrupted {
			t.Errorf("%+v", o)
		}
		if svc.started() != 1 {
			t.Errorf("%d commands started", svc.started())
		}
	})
}

// TestHalfClosed: a client that closes its sending side gets its answers, over
// TCP, with nothing lost in the closing.
func TestHalfClosed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // no
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close() //nolint:errcheck // no
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	svc := &fake{start: func(_ context.Context, r parley.Request, done func(parley.Result, error)) {
		time.AfterFunc(10*time.Millisecond, func() { done(parley.Result{Message: parley.MessageID(r.Seq)}, nil) })
	}}
	_, serve := serving(t, far, svc, ServerConfig{})
	var b []byte
	for id := uint64(1); id <= 1000; id++ {
		req := send(id, "x")
		b, _ = wire.AppendDo(b, id, &req)
	}
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
	nc.(*net.TCPConn).CloseWrite() //nolint:errcheck // seen below
	r := wire.NewFrameReader(bufio.NewReader(nc), 0)
	seen := map[uint64]bool{}
	for {
		var f wire.Frame
		if err := r.Read(&f); err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			break
		}
		seen[f.ID] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d answers", len(seen))
	}
	if err := <-serve; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// TestLastWordsArrive although the client goes on sending: closing a socket with
// unread input would make TCP throw them away.
func TestLastWordsArrive(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // no
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close() //nolint:errcheck // no
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, serve := serving(t, far, &fake{}, ServerConfig{})
	if _, err := nc.Write(bytes.Repeat([]byte{0xFF}, 1<<20)); err != nil {
		t.Logf("write: %v", err) // closed before all was written: fine
	}
	var f wire.Frame
	if err := wire.NewFrameReader(bufio.NewReader(nc), 0).Read(&f); err != nil || f.Kind != wire.KindError || f.Err.Code != parley.CodeBadRequest {
		t.Errorf("%+v, %v", f, err)
	}
	if n, err := nc.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("behind it: %d bytes, %v, want a clean end", n, err)
	}
	nc.Close() //nolint:errcheck // no
	if err := <-serve; !errors.Is(err, &parley.Error{Code: parley.CodeBadRequest}) {
		t.Errorf("Serve: %v", err)
	}
}

// TestNoReadBehindDrain: the reading goroutine may be about to set its deadline
// at the moment the drain begins; it must not undo it.
func TestNoReadBehindDrain(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close() //nolint:errcheck // no
	s := &serverConn{Server: NewServer(ServerConfig{IdleTimeout: time.Hour}), nc: far}
	s.out.init(far, time.Second, nil)
	s.drain()
	if err := s.arm(time.Now()); err != errDraining {
		t.Errorf("armed: %v", err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}
