package tcp

import (
	"context"
	"sync"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
	"github.com/parley-chat/parley/wire"
)

// mail brings the messages of one user to a classic connection: one watch, taken
// up again where it was when it breaks, so that a change of leader goes
// unnoticed. It has no goroutine while there is no mail. The command goroutine
// starts it, stops it and waits for it.
type mail struct {
	c           *classic
	user        string // as given
	svc         parley.Service
	session     *parley.Session // over svc; the connection's, if that is anybody's
	incarnation parley.Incarnation
	target      parley.MessageID // the answer to connect goes behind this message
	after       parley.Cursor    // the last message queued; like what follows, of the goroutine that shows
	watched     parley.Cursor    // where the last watch began
	failures    int              // of watches in a row that have shown nothing

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
	go m.watch(ctx)
	return m
}

// watch begins to queue messages, as long as the user is there, the login is valid
// and ctx has not ended.
func (m *mail) watch(ctx context.Context) {
	if m.after.ID >= m.target {
		if err := m.sayOK(ctx); err != nil {
			m.interrupted(ctx, err)
			return
		}
	}
	m.watched = m.after
	parley.Subscribe(ctx, m.svc, m.user, m.after, func(msg parley.Message, err error) bool {
		if err == nil {
			err = m.show(ctx, &msg)
		}
		if err != nil {
			go m.interrupted(ctx, err) // the watch ends first, and whoever it is that shows goes home
		}
		return err == nil
	})
}

// interrupted begins the next watch, unless the one that has ended with err was the last.
func (m *mail) interrupted(ctx context.Context, err error) {
	if m.after != m.watched {
		m.failures = 0
	}
	if m.over(ctx, err) || !pause.For(ctx, backoff(m.failures)) {
		m.err = err
		m.stop()
		close(m.ended)
		return
	}
	m.failures++
	m.watch(ctx)
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
