package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/check"
)

// Load keeps a cluster busy and reports to the checkers. Lanes do a little of
// everything to a few users, for the history; senders and readers exchange
// mail, for its delivery.
type Load struct {
	net     *Net
	members []string
	seed    uint64
	history *check.History
	log     *check.Log

	stop     context.Context // ends the lanes and the senders
	end      context.Context // ends the readers
	writers  sync.WaitGroup
	readers  sync.WaitGroup
	answered atomic.Int64 // commands and queries
	unknown  atomic.Int64 // given up
}

// The users of the load.
const (
	lanes    = 4 // lanes and the users that all of them work on
	users    = 3
	boxes    = 2 // mailboxes for delivery, beside one that is created again and again
	senders  = 3
	ahead    = 8 // messages of a sender that wait for an answer
	reborn   = "reborn"
	think    = 40 * time.Millisecond
	patience = time.Minute // with a command that must be answered
)

func (l *Load) rng(name string) *rand.Rand { return rand.New(rand.NewPCG(l.seed, sum(name))) }

func (l *Load) client(host string) *Client {
	return NewClient(l.net, host, l.members, l.rng(host))
}

// sum is a number for a name.
func sum(name string) (n uint64) {
	for _, b := range []byte(name) {
		n = n*131 + uint64(b)
	}
	return n
}

// wait lets time pass, and reports whether ctx is still alive.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Run starts the load. It needs a cluster that works.
func (l *Load) Run() error {
	admin := l.client("admin")
	s := parley.NewSession(admin)
	for i := range boxes {
		if err := l.create(s, fmt.Sprint("box", i)); err != nil {
			return err
		}
	}
	if err := l.create(s, reborn); err != nil {
		return err
	}
	for i := range lanes {
		l.writers.Go(func() { l.lane(i) })
	}
	for i := range senders {
		l.writers.Go(func() { l.send(fmt.Sprint("sender", i)) })
	}
	l.writers.Go(func() { l.recreate(s) })
	for _, box := range []string{"box0", "box1", reborn} {
		r := &reader{l: l, box: box, seen: l.log.Reader("a", box), acks: true}
		l.readers.Go(func() { r.run(l.client("reader-a-" + box)) })
		o := &reader{l: l, box: box, seen: l.log.Reader("b", box)}
		l.readers.Go(func() { o.run(l.client("reader-b-" + box)) })
	}
	return nil
}

func (l *Load) create(s *parley.Session, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	created := l.log.Creating(name)
	r, err := s.Do(ctx, parley.CreateUser{Name: name})
	if err == nil {
		err = r.Err()
	}
	created(r.Incarnation)
	return err
}

// recreate deletes and creates a mailbox that others write to and read.
func (l *Load) recreate(s *parley.Session) {
	rng := l.rng("recreate")
	for wait(l.stop, time.Duration(rng.Int64N(int64(3*time.Second)))) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		deleted := l.log.Deleting(reborn)
		s.Do(ctx, parley.DeleteUser{Name: reborn}) // the creation comes after it in any case
		deleted()
		cancel()
		wait(l.stop, time.Duration(rng.Int64N(int64(100*time.Millisecond))))
		if err := l.create(s, reborn); err != nil {
			return
		}
	}
}

// send is one sender: it writes to all mailboxes in turn, some messages ahead of
// the answers.
func (l *Load) send(name string) {
	rng := l.rng(name)
	s := parley.NewSession(l.client(name))
	slots := make(chan struct{}, ahead)
	for i := 0; wait(l.stop, time.Duration(rng.Int64N(int64(think)))); i++ {
		slots <- struct{}{}
		st := check.Stream{From: name, To: []string{"box0", "box1", reborn}[i%3]}
		n := l.log.Send(st)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		s.Start(ctx, parley.Send{From: name, To: st.To, Body: check.Body(st, n)}, func(r parley.Result, err error) {
			switch {
			case err != nil:
				l.unknown.Add(1)
			case r.Code == parley.CodeOK:
				l.log.Acknowledge(st, n)
			default:
				l.log.Refuse(st, n)
			}
			l.answered.Add(1)
			cancel()
			<-slots
		})
	}
	for range ahead {
		slots <- struct{}{}
	}
}

// lane does one thing after the other in one session.
func (l *Load) lane(i int) {
	rng := l.rng(fmt.Sprint("lane", i))
	c := l.client(fmt.Sprint("lane", i))
	s := parley.NewSession(c)
	last := make(map[string]parley.Cursor) // of each user's mail, as this lane has seen it
	for k := 0; wait(l.stop, time.Duration(rng.Int64N(int64(think)))); k++ {
		user := fmt.Sprint("u", rng.IntN(users))
		var command parley.Command
		switch p := rng.IntN(100); {
		case p < 12:
			command = parley.CreateUser{Name: user}
		case p < 17:
			command = parley.DeleteUser{Name: user}
		case p < 50:
			command = parley.Send{From: fmt.Sprint("lane", i), To: user, Body: fmt.Sprintf("%d-%d", i, k)}
		case p < 65:
			command = parley.Ack{User: user, UpTo: last[user]}
		case p < 90:
			if r, ok := l.get(c, i, parley.Inbox{User: user}); ok && len(r.Messages) > 0 {
				last[user] = r.Messages[rng.IntN(len(r.Messages))].Cursor
			}
			continue
		default:
			l.get(c, i, parley.Users{Pattern: "^u"})
			continue
		}
		limit := patience
		if rng.IntN(10) == 0 {
			limit = time.Duration(rng.Int64N(int64(200 * time.Millisecond)))
		}
		l.do(s, i, command, limit)
	}
	// What was given up is over once the session has got an answer.
	l.do(s, i, parley.Ack{User: "nobody"}, patience)
}

func (l *Load) do(s *parley.Session, lane int, command parley.Command, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Millisecond)
	defer cancel()
	op := l.history.Invoke(lane, command)
	r, err := s.Do(ctx, command)
	l.answered.Add(1)
	if err != nil {
		l.unknown.Add(1)
		op.Fail(err)
		return
	}
	op.Answer(r)
}

func (l *Load) get(c *Client, lane int, q parley.Query) (parley.Result, bool) {
	op := l.history.Invoke(lane, q)
	r, err := c.Get(context.Background(), q)
	l.answered.Add(1)
	if err != nil {
		op.Fail(err)
		return r, false
	}
	op.Answer(r)
	return r, true
}

// Final asks for every mailbox once more, when nothing else goes on.
func (l *Load) Final() error {
	c := l.client("final")
	for i := range users {
		if err := l.insist(c, parley.Inbox{User: fmt.Sprint("u", i)}); err != nil {
			return err
		}
	}
	return l.insist(c, parley.Users{Pattern: "^u"})
}

func (l *Load) insist(c *Client, q parley.Query) error {
	for range 100 {
		if _, ok := l.get(c, lanes, q); ok {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%T is not answered by a cluster in order", q)
}
