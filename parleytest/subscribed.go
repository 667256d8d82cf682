package parleytest

import (
	"context"
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/parley-chat/parley"
)

// subscribed is a service whose Watch is a subscription, so that what is checked of
// the one is checked of the other; with what is promised of subscriptions only.
type subscribed struct {
	parley.Service
	complain func(format string, args ...any)
}

func (s subscribed) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		type shown struct {
			parley.Message
			error
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		show, enough := make(chan shown), make(chan struct{})
		defer close(enough)
		var calls atomic.Int32
		var over atomic.Bool
		parley.Subscribe(ctx, s.Service, user, after, func(m parley.Message, err error) (more bool) {
			if calls.Add(1) != 1 {
				s.complain("show is called twice at a time for %q", user)
			}
			defer calls.Add(-1)
			if over.Load() {
				s.complain("show is called with %v, %v after the end of the subscription to %q", m, err, user)
			}
			defer func() { over.Store(!more) }()
			select {
			case show <- shown{m, err}:
				return err == nil
			case <-enough:
				return false
			}
		})
		for x := range show {
			if !yield(x.Message, x.error) || x.error != nil {
				return
			}
		}
	}
}

// asSubscribed is the suite with subscriptions for watches.
func asSubscribed(check func(*suite)) func(*suite) {
	return func(s *suite) {
		s.svc = subscribed{s.svc, func(format string, args ...any) { s.Error(fmt.Errorf(format, args...)) }}
		check(s)
	}
}
