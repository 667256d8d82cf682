package tcp

import (
	"context"
	"errors"
	"sync"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
	"github.com/parley-chat/parley/wire"
)

// mail brings the messages of one user to a classic connection: one watch, taken
// up again where it was when it breaks, so that a change of leader goes
// unnoticed. The command goroutine starts it, stops it and waits for it.
type mail struct {
	c           *classic
	user        string // as given
	svc         parley.Service
	session     *parley.Session // over svc; the connection's, if that is anybody's
	incarnation parley.Incarnation
	target      parley.MessageID // the answer to connect goes behind this message
	after       parley.Cursor    // the last message queued; run's own

	stop     context.CancelFunc
	answer   sync.Once
	caughtUp chan struct{} // closed when the answer has been queued
	ended    chan struct{} // closed when nothing more is queued
	err      error         // why; to be read once ended
}

// startMail begins to bring the mail of a user whose inbox is in the state r,
// except for what the connection has been sent already.
func startMail(ctx context.Context, c *classic, user string, svc parley.Service, r parley.Result) *mail {
	ctx, cancel := context.WithCancel(ctx)
	m := &mail{
		c: c, user: user, svc: svc, session: c.session, incarnation: r.Cursor.Incarnation,
		target: r.Cursor.ID + parley.MessageID(r.Unread), after: r.Cursor,
		stop: cancel, caughtUp: make(chan struct{}), ended: make(chan struct{}),
	}
	if svc != c.g.cfg.Service {
		m.session = parley.NewSession(svc)
	}
	m.after.ID = max(m.after.ID, c.queued[m.incarnation])
	go m.bring(ctx)
	return m
}

// bring is the goroutine. It and all that it calls have little on the stack while
// they wait, 1,247 bytes together: Go shrinks stacks of 8 KiB to 4 that use less than
// a quarter, 800 bytes of its own included.
func (m *mail) bring(ctx context.Context) {
	m.err = m.run(ctx)
	m.stop()
	close(m.ended)
}

// run queues messages until the user is gone, or the login is not valid any more,
// or ctx ends.
func (m *mail) run(ctx context.Context) error {
	for n := 0; ; n++ {
		before := m.after.ID
		err := m.watch(ctx)
		if m.over(ctx, err) {
			return err
		}
		if m.after.ID != before {
			n = 0
		}
		if !pause.For(ctx, backoff(n)) {
			return ctx.Err()
		}
	}
}

// over reports whether a watch that has ended with err was the last one.
func (m *mail) over(ctx context.Context, err error) bool {
	switch code := parley.CodeOf(err); {
	case ctx.Err() != nil || code == parley.CodeNoSuchUser || code == parley.CodeUnauthenticated:
		return true
	case !code.Retryable():
		// Better no connection than one that silently brings nothing.
		m.c.g.log.Warn("watch refused", "user", m.user, "error", err)
		m.c.nc.Close()
		return true
	}
	m.c.g.log.Debug("watch interrupted", "user", m.user, "after", m.after.ID, "error", err)
	return false
}

// watch queues messages until the watch ends.
func (m *mail) watch(ctx context.Context) error {
	if m.after.ID >= m.target {
		if err := m.sayOK(ctx); err != nil {
			return err
		}
	}
	ended := errors.New("the watch ended without a reason")
	m.svc.Watch(ctx, m.user, m.after)(func(msg parley.Message, err error) bool {
		if err == nil {
			err = m.show(ctx, &msg)
		}
		if err != nil {
			ended = err
		}
		return err == nil
	})
	return ended
}

// show queues a message.
func (m *mail) show(ctx context.Context, msg *parley.Message) error {
	if msg.ID > m.target { // those up to it have been acknowledged meanwhile
		if err := m.sayOK(ctx); err != nil {
			return err
		}
	}
	frames := wire.AppendClassicText(nil, text, msg.Body)
	if err := m.c.out.add(ctx, frames, &mark{svc: m.svc, user: m.user, cursor: msg.Cursor}); err != nil {
		return err
	}
	m.c.g.metrics.pushed.Inc()
	m.after = msg.Cursor
	if msg.ID >= m.target {
		return m.sayOK(ctx)
	}
	return nil
}

// sayOK queues the answer to connect, once.
func (m *mail) sayOK(ctx context.Context) (err error) {
	m.answer.Do(func() {
		if err = m.c.reply(ctx, answerOK); err == nil {
			close(m.caughtUp)
		}
	})
	return err
}

// withhold sees to it that the answer to connect is not queued, and reports
// false if it has been.
func (m *mail) withhold() bool {
	m.answer.Do(func() {})
	select {
	case <-m.caughtUp:
		return false
	default:
		return true
	}
}
