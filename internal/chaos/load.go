package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/check"
	"github.com/parley-chat/parley/internal/pause"
)

func (r *Run) mailbox(i int) string { return fmt.Sprintf("chaos-%s-%d", r.id, i+1) }

// createUsers makes the mailboxes of this run.
func (r *Run) createUsers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Patience)
	defer cancel()
	for i := range r.cfg.Senders {
		result, err := r.session.Do(ctx, parley.CreateUser{Name: r.mailbox(i)})
		if err == nil {
			err = result.Err()
		}
		if err != nil {
			return fmt.Errorf("create user %s: %w", r.mailbox(i), err)
		}
	}
	return nil
}

// deleteUsers removes the mailboxes of this run, as well as it can.
func (r *Run) deleteUsers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for i := range r.cfg.Senders {
		_, _ = r.session.Do(ctx, parley.DeleteUser{Name: r.mailbox(i)})
	}
	_ = r.session.Close(ctx)
}

// sender sends numbered messages to all mailboxes in turn.
type sender struct {
	r       *Run
	name    string
	first   int // index of the mailbox with which it begins
	client  Client
	session *parley.Session
	every   time.Duration // between two messages; 0: no pause
	slots   chan struct{} // one per message under way
}

func (r *Run) newSender(i int) (*sender, error) {
	c, err := r.cfg.Dial()
	if err != nil {
		return nil, err
	}
	s := &sender{
		r: r, name: fmt.Sprintf("s%d", i+1), first: i,
		client: c, session: parley.NewSession(c), slots: make(chan struct{}, window),
	}
	if r.cfg.Rate > 0 {
		s.every = time.Duration(float64(time.Second) * float64(r.cfg.Senders) / r.cfg.Rate)
	}
	return s, nil
}

func (s *sender) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = s.session.Close(ctx)
	_ = s.client.Close()
}

// run sends until stop ends, then waits for the outcomes, at most until end ends.
func (s *sender) run(stop, end context.Context) {
	next := time.Now()
	for i := s.first; s.wait(stop, next); i++ {
		s.send(end, s.r.mailbox(i%s.r.cfg.Senders))
		if next = next.Add(s.every); time.Since(next) > 100*time.Millisecond {
			next = time.Now() // held up: do not make up for it in a burst
		}
	}
	for range window { // until all are answered
		select {
		case s.slots <- struct{}{}:
		case <-end.Done():
			return
		}
	}
}

// wait waits for the time and for a slot, and reports whether ctx is still alive.
func (s *sender) wait(ctx context.Context, next time.Time) bool {
	if d := time.Until(next); s.every > 0 && d > 0 {
		pause.For(ctx, d)
	}
	if ctx.Err() != nil {
		return false
	}
	select {
	case s.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// send sends one message, having a slot.
func (s *sender) send(ctx context.Context, to string) {
	stream := check.Stream{From: s.name, To: to}
	n := s.r.log.Send(stream)
	began := time.Now()
	command := parley.Send{From: s.name, To: to, Body: check.Body(stream, n)}
	s.session.Start(ctx, command, func(result parley.Result, err error) {
		if s.outcome(ctx, stream, n, began, result, err) {
			<-s.slots
			return
		}
		time.AfterFunc(100*time.Millisecond, func() { <-s.slots }) // do not hurry to fail again
	})
}

// outcome books how a message fared and reports whether all was well. Whatever
// is not certain stays unknown.
func (s *sender) outcome(ctx context.Context, stream check.Stream, n uint64, began time.Time, result parley.Result, err error) bool {
	if err == nil && result.Code == parley.CodeOK {
		s.r.log.Acknowledge(stream, n)
		for _, f := range s.r.gaps.acknowledged(began, time.Now()) {
			s.r.event(Event{Kind: EventGap, Failure: f})
		}
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	if err == nil {
		err = result.Err()
	}
	if code := parley.CodeOf(err); code.IsAnswer() || code.NotApplied() {
		s.r.log.Refuse(stream, n)
	}
	s.r.event(Event{Kind: EventTrouble, Detail: fmt.Sprintf("send %s: %v", check.Body(stream, n), err)})
	return false
}

// reader reads one mailbox.
type reader struct {
	r       *Run
	mailbox string
	client  Client
	check   *check.Reader
}

func (r *Run) newReader(i int) (*reader, error) {
	c, err := r.cfg.Dial()
	if err != nil {
		return nil, err
	}
	return &reader{r: r, mailbox: r.mailbox(i), client: c, check: r.log.Reader("r", r.mailbox(i))}, nil
}

// run reads until ctx ends, going on after the last message seen when the
// client gives up.
func (rd *reader) run(ctx context.Context) {
	defer rd.client.Close()
	var last parley.Cursor
	for {
		for m, err := range rd.client.Receive(ctx, rd.mailbox, last) {
			if err != nil {
				if ctx.Err() == nil {
					rd.r.event(Event{Kind: EventTrouble, Detail: fmt.Sprintf("read %s: %v", rd.mailbox, err)})
				}
				break
			}
			rd.check.Deliver(m)
			last = m.Cursor
		}
		if !pause.For(ctx, 50*time.Millisecond) {
			return
		}
	}
}

// drain waits until everything acknowledged has been shown and every mailbox
// says that it has no unread mail left, so that nothing more can come.
func (r *Run) drain(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make(chan error, r.cfg.Senders)
	for i := range r.cfg.Senders {
		wg.Go(func() { errs <- r.drained(ctx, r.mailbox(i)) })
	}
	wg.Wait()
	for range r.cfg.Senders {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// drained waits until a mailbox is empty.
func (r *Run) drained(ctx context.Context, mailbox string) error {
	var last error
	for {
		result, err := r.admin.Get(ctx, parley.Inbox{User: mailbox, Limit: -1})
		switch {
		case err == nil && result.Code == parley.CodeOK && result.Unread == 0:
			return nil
		case err == nil && result.Code == parley.CodeOK:
			last = fmt.Errorf("%d unread messages in %s", result.Unread, mailbox)
		case err == nil:
			return fmt.Errorf("%s: %w", mailbox, result.Err())
		case ctx.Err() == nil || last == nil:
			last = err
		}
		if !pause.For(ctx, 50*time.Millisecond) {
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		}
	}
}
