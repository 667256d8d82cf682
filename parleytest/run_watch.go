package parleytest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/parley-chat/parley"
)

// watcher reads a mailbox in its own goroutine, and goes on after retryable
// errors as a client would.
type watcher struct {
	s     *suite
	user  string
	mail  chan parley.Message
	ended chan error // the error that ended the watch; a second one is sent if anything follows it
	stop  context.CancelFunc
}

func (s *suite) watch(user string, after parley.Cursor) *watcher {
	ctx, cancel := context.WithCancel(s.ctx)
	w := &watcher{s: s, user: user, mail: make(chan parley.Message), ended: make(chan error, 2), stop: cancel}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for {
			err := w.read(ctx, s.svc.Watch(ctx, user, after), &after)
			if ctx.Err() == nil && parley.CodeOf(err).Retryable() && parley.CodeOf(err) != parley.CodeOK {
				time.Sleep(5 * time.Millisecond) // back-off, as clients do
				continue
			}
			w.ended <- err
			return
		}
	}()
	s.Cleanup(func() {
		cancel()
		<-finished
	})
	return w
}

// read hands on what one watch yields and returns the error that it ends with.
func (w *watcher) read(ctx context.Context, seq iter.Seq2[parley.Message, error], after *parley.Cursor) (last error) {
	for m, err := range seq {
		if last != nil {
			w.ended <- fmt.Errorf("yielded %v, %v after the error %w", m, err, last)
		}
		if err != nil {
			last = err
			continue
		}
		select {
		case w.mail <- m:
			*after = m.Cursor
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if last == nil {
		return errors.New("the watch ended without an error")
	}
	return last
}

// next returns the next message.
func (w *watcher) next() parley.Message {
	w.s.Helper()
	select {
	case m := <-w.mail:
		return m
	case err := <-w.ended:
		w.s.Fatalf("the watch of %q ended: %v", w.user, err)
	case <-w.s.ctx.Done():
		w.s.Fatalf("the watch of %q brings nothing", w.user)
	}
	panic("unreachable")
}

// expect checks that the next messages are first to last.
func (w *watcher) expect(first, last int) {
	w.s.Helper()
	for i := first; i <= last; i++ {
		w.s.checkBodies("watch", []parley.Message{w.next()}, i, i)
	}
}

// end waits for the watch to end and returns the reason.
func (w *watcher) end() error {
	w.s.Helper()
	select {
	case m := <-w.mail:
		w.s.Fatalf("the watch of %q brings %v instead of ending", w.user, m)
	case err := <-w.ended:
		return err
	case <-w.s.ctx.Done():
		w.s.Fatalf("the watch of %q does not end", w.user)
	}
	panic("unreachable")
}

func (w *watcher) wantEnd(code parley.Code) {
	w.s.Helper()
	if err := w.end(); parley.CodeOf(err) != code {
		w.s.Errorf("the watch of %q ended with %v, want %v", w.user, err, code)
	}
}

func checkWatchBacklog(s *suite) {
	user, born := s.create("u")
	const n = 300 // more than any credit window or page
	s.send(user, n)
	w := s.watch(user, parley.Cursor{})
	first := w.next()
	if first.From != "suite" || first.Incarnation != born || first.Time.IsZero() {
		s.Errorf("first message: %+v", first)
	}
	s.checkBodies("watch", []parley.Message{first}, 1, 1)
	w.expect(2, n)
	if r := s.get(parley.Inbox{User: user, Limit: -1}); r.Unread != n {
		s.Errorf("watching left %d unread of %d", r.Unread, n)
	}
}

func checkWatchLive(s *suite) {
	user, _ := s.create("u")
	w := s.watch(user, parley.Cursor{})
	s.send(user, 3)
	w.expect(1, 3)
	for i := 4; i < 10; i++ { // one by one, each seen before the next is sent
		s.sendFrom(user, i, i)
		w.expect(i, i)
	}
	s.sendFrom(user, 10, 60)
	w.expect(10, 60)
}

func checkWatchResume(s *suite) {
	user, born := s.create("u")
	s.send(user, 6)
	w := s.watch(user, parley.Cursor{})
	w.expect(1, 2)
	w.stop()
	s.watch(user, parley.Cursor{Incarnation: born, ID: 2}).expect(3, 6)
	// A position behind the mailbox's own cursor brings only what is unread.
	s.ok(parley.Ack{User: user, UpTo: parley.Cursor{Incarnation: born, ID: 4}})
	s.watch(user, parley.Cursor{Incarnation: born, ID: 1}).expect(5, 6)
	// Nothing comes twice at the end.
	w = s.watch(user, parley.Cursor{Incarnation: born, ID: 6})
	s.sendFrom(user, 7, 7)
	w.expect(7, 7)
	s.watch(user, parley.Cursor{}).expect(5, 7)
}

// checkWatchAckedMeantime: mail acknowledged by another reader may be skipped,
// what is unread must come, and in order.
func checkWatchAckedMeantime(s *suite) {
	user, born := s.create("u")
	const n = 400
	s.send(user, n)
	w := s.watch(user, parley.Cursor{})
	w.expect(1, 1)
	s.ok(parley.Ack{User: user, UpTo: parley.Cursor{Incarnation: born, ID: n}})
	s.sendFrom(user, n+1, n+3)
	last := parley.MessageID(1)
	for last < n+3 {
		m := w.next()
		if m.ID <= last || m.Body != fmt.Sprint(m.ID) || last >= n && m.ID != last+1 {
			s.Fatalf("message %d %q after %d", m.ID, m.Body, last)
		}
		last = m.ID
	}
}

func checkWatchTwo(s *suite) {
	user, _ := s.create("u")
	other, _ := s.create("other")
	s.send(user, 3)
	a, b := s.watch(user, parley.Cursor{}), s.watch(user, parley.Cursor{})
	stranger := s.watch(other, parley.Cursor{})
	a.expect(1, 3)
	s.sendFrom(user, 4, 6) // b has not even begun to read
	a.expect(4, 6)
	b.expect(1, 6)
	a.stop()
	s.sendFrom(user, 7, 8)
	b.expect(7, 8)
	s.send(other, 1)
	stranger.expect(1, 1)
}

// checkWatchTwoAcked: a reader that follows closely gets everything, even what
// another one acknowledges at once.
func checkWatchTwoAcked(s *suite) {
	user, _ := s.create("u")
	a, b := s.watch(user, parley.Cursor{}), s.watch(user, parley.Cursor{})
	s.send(user, 1)
	a.expect(1, 1)
	b.expect(1, 1)
	for i := 2; i <= 20; i++ {
		s.sendFrom(user, i, i)
		m := a.next()
		s.checkBodies("first reader", []parley.Message{m}, i, i)
		s.ok(parley.Ack{User: user, UpTo: m.Cursor})
		b.expect(i, i)
	}
}

func checkWatchUnknown(s *suite) {
	s.watch(s.name("nobody"), parley.Cursor{}).wantEnd(parley.CodeNoSuchUser)
	s.watch(s.name("no,body"), parley.Cursor{}).wantEnd(parley.CodeNoSuchUser)
	s.watch("", parley.Cursor{}).wantEnd(parley.CodeNoSuchUser)
}

func checkWatchDeleted(s *suite) {
	user, _ := s.create("User")
	s.send(user, 2)
	one := s.watch(user, parley.Cursor{})
	two := s.watch(s.name("uSER"), parley.Cursor{})
	one.expect(1, 2)
	two.expect(1, 2)
	s.ok(parley.DeleteUser{Name: user})
	s.create("user") // at once: the watches were of somebody else
	s.sendFrom(user, 1, 1)
	one.wantEnd(parley.CodeNoSuchUser)
	two.wantEnd(parley.CodeNoSuchUser)
	s.watch(user, parley.Cursor{}).expect(1, 1)
}

func checkWatchFormer(s *suite) {
	user, former := s.create("u")
	s.send(user, 5)
	s.ok(parley.DeleteUser{Name: user})
	_, born := s.create("u")
	s.send(user, 3)
	s.watch(user, parley.Cursor{Incarnation: former, ID: 2}).wantEnd(parley.CodeNoSuchUser)
	s.watch(user, parley.Cursor{Incarnation: born, ID: 1}).expect(2, 3)
}

func checkWatchCancelled(s *suite) {
	user, _ := s.create("u")
	w := s.watch(user, parley.Cursor{})
	s.send(user, 1)
	w.expect(1, 1)
	w.stop()
	if err := w.end(); !errors.Is(err, context.Canceled) {
		s.Errorf("cancelled watch ended with %v", err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	for m, err := range s.svc.Watch(ctx, user, parley.Cursor{}) {
		if err == nil {
			continue // what is there already may still come
		}
		if !errors.Is(err, context.Canceled) {
			s.Errorf("watch with an ended context: %v, %v", m, err)
		}
	}
	// A consumer that has had enough stops the watch.
	s.sendFrom(user, 2, 9)
	for range s.svc.Watch(s.ctx, user, parley.Cursor{}) {
		break
	}
}
