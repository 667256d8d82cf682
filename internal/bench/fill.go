package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley"
)

// Stock says what to put into a cluster before it is measured.
type Stock struct {
	Dial     Dial   // for each sender; must allow Window commands under way
	Prefix   string // of the users' names, which are numbered
	From, To int    // number of the first user, and of the first one that is none any more
	Made     bool   // the users exist already
	Messages int    // for each of them
	Size     int    // bytes of a message; 0: 100
	Senders  int    // 0: 8
	Window   int    // 0: 512
}

func (st Stock) withDefaults() (Stock, error) {
	setDefault(&st.Size, 100)
	setDefault(&st.Senders, 8)
	setDefault(&st.Window, 512)
	switch {
	case st.Dial == nil || st.Prefix == "":
		return st, errors.New("bench: no cluster or no prefix given")
	case st.From < 0 || st.To < st.From || st.Messages < 0 || st.Size < 0 || st.Senders < 0:
		return st, errors.New("bench: negative value")
	case st.Window < 0 || st.Window > MaxWindow:
		return st, fmt.Errorf("bench: window %d: want 1 to %d", st.Window, MaxWindow)
	}
	return st, nil
}

// Fill makes users and puts mail into their mailboxes, through the client library
// like any load. It stays there: a run uses it by [Config.Existing].
func Fill(ctx context.Context, st Stock) error {
	st, err := st.withDefaults()
	if err != nil {
		return err
	}
	users := st.To - st.From
	senders := min(st.Senders, max(users, 1))
	if st.Made && users > 0 { // then one mailbox can have several senders
		senders = st.Senders
	}
	return parallel(ctx, senders, func(i int) error {
		f := &filler{Stock: st, body: strings.Repeat("x", st.Size), slots: make(chan struct{}, st.Window), failed: make(chan error, 1)}
		if st.Made {
			return f.run(ctx, st.From, st.To, share(st.Messages, i, senders))
		}
		return f.run(ctx, st.From+users*i/senders, st.From+users*(i+1)/senders, st.Messages)
	})
}

// share is the ith of so many parts of n.
func share(n, i, parts int) int { return n*(i+1)/parts - n*i/parts }

// filler is one sender of a Fill.
type filler struct {
	Stock
	body    string
	session *parley.Session
	slots   chan struct{}
	failed  chan error // the first
	under   sync.WaitGroup
}

func (f *filler) run(ctx context.Context, from, to, messages int) error {
	c, err := f.Dial(nil)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	f.session = parley.NewSession(c)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := from; i < to && !f.stopped(ctx) && !f.Made; i++ {
		f.start(ctx, parley.CreateUser{Name: userName(f.Prefix, i)})
	}
	for range messages { // once round all mailboxes each time, as mail comes
		for i := from; i < to && !f.stopped(ctx); i++ {
			f.start(ctx, parley.Send{From: "bench", To: userName(f.Prefix, i), Body: f.body})
		}
	}
	f.under.Wait()
	closing, cancelClosing := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancelClosing()
	_ = f.session.Close(closing) // else it expires
	select {
	case err := <-f.failed:
		return because(c, err)
	default:
		return ctx.Err()
	}
}

// stopped reports whether there is no use in going on.
func (f *filler) stopped(ctx context.Context) bool { return ctx.Err() != nil || len(f.failed) > 0 }

// start begins a command once there is room for it.
func (f *filler) start(ctx context.Context, cmd parley.Command) {
	f.slots <- struct{}{} // comes back for sure: every command ends with ctx
	f.under.Add(1)
	f.session.Start(ctx, cmd, func(res parley.Result, err error) {
		defer f.under.Done()
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			select {
			case f.failed <- err:
			default:
			}
		}
		<-f.slots
	})
}
