package parleytest

import (
	"context"
	"testing"

	"github.com/parley-chat/parley"
)

func TestFake(t *testing.T) {
	Run(t, func(t *testing.T) parley.Service {
		f := NewFake()
		t.Cleanup(f.Close)
		return f
	})
}

func TestFakeLimits(t *testing.T) {
	limits := Limits{BodyBytes: 64, MailboxMessages: 5, MailboxBytes: 200, Users: 4, Sessions: 3}
	RunLimits(t, limits, func(t *testing.T) parley.Service {
		f := NewFake()
		f.SetLimits(limits)
		t.Cleanup(f.Close)
		return f
	})
}

// remote gives the Fake the manners of a service behind a network: outcomes
// come late and from other goroutines.
type remote struct {
	*Fake
	queue chan func()
}

func (r remote) Start(ctx context.Context, req parley.Request, done func(parley.Result, error)) {
	r.queue <- func() {
		r.Fake.Start(ctx, req, func(res parley.Result, err error) { go done(res, err) })
	}
}

func TestFakeBehindNetwork(t *testing.T) {
	Run(t, func(t *testing.T) parley.Service {
		r := remote{NewFake(), make(chan func(), 10_000)}
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			for f := range r.queue {
				f()
			}
		}()
		t.Cleanup(func() {
			close(r.queue)
			<-finished
			r.Close()
		})
		return r
	})
}
