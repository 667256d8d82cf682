package account

import (
	"context"
	"iter"
	"time"

	"github.com/parley-chat/parley"
)

// Get implements [parley.Service]. Whether the login is still valid is looked at
// behind the answer, when this node knows all that the answer reflects.
func (s *service) Get(ctx context.Context, q parley.Query) (parley.Result, error) {
	refusal, concerns := s.permitQuery(q)
	if refusal.Code != parley.CodeOK {
		return refusal, nil
	}
	if i, ok := q.(parley.Inbox); ok && concerns == "" {
		if !s.pin(&i.After) {
			return refuseStale, nil
		}
		q = i
	}
	r, err := s.g.cluster.Get(ctx, q)
	if err != nil {
		return r, err
	}
	if _, public := q.(parley.GetPolicy); public {
		return r, nil
	}
	switch err := s.behind(concerns, r.Cursor.Incarnation); {
	case err == nil:
		return r, nil
	case parley.CodeOf(err).IsAnswer():
		return parley.Refusal(err), nil
	default:
		return parley.Result{}, err
	}
}

// permitQuery says why a query is refused, and whom it concerns but the user that
// has logged in, "" if nobody.
func (s *service) permitQuery(q parley.Query) (refusal parley.Result, concerns string) {
	switch q.(type) {
	case parley.GetPolicy:
		return parley.Result{}, ""
	case parley.Invites:
		if !s.admin() {
			return refuseAdmin, ""
		}
		return parley.Result{}, ""
	}
	if s.anybody() && s.g.cluster.Policy().Auth == parley.AuthRequired {
		return refuseLogin, ""
	}
	switch q := q.(type) {
	case parley.Status:
		return parley.Result{}, ""
	case parley.Users:
		return s.permitScope(parley.ScopeRead), ""
	case parley.Inbox:
		return s.permitReading(q.User)
	case parley.Tokens:
		switch {
		case s.admin():
			return parley.Result{}, ""
		case s.anybody():
			return refuseLogin, ""
		case !s.self(q.User):
			return refuseOwner, ""
		}
		return s.permitScope(parley.ScopeFull), ""
	}
	return s.permitScope(parley.ScopeFull), "" // whatever else there may be
}

// permitReading says why somebody's mail may not be read, and whose it is, "" for
// the user's that has logged in. Of another it depends on whether that one has a
// password: see behind.
func (s *service) permitReading(user string) (refusal parley.Result, concerns string) {
	switch {
	case user == "": // which is nobody's name, and means somebody here
		return parley.Result{Code: parley.CodeNoSuchUser, Detail: `no user is named ""`}, ""
	case s.anybody():
		return parley.Result{}, user
	case s.self(user):
		user = ""
	case s.admin() || s.g.cluster.Policy().Auth == parley.AuthRequired:
		return refuseOwner, user
	}
	return s.permitScope(parley.ScopeRead), user
}

// pin makes a position one in the mailbox of the user that has logged in, and not
// of whoever bears the name later.
func (s *service) pin(after *parley.Cursor) bool {
	if after.Incarnation == 0 {
		after.Incarnation = s.actor.Incarnation
	}
	return after.Incarnation == s.actor.Incarnation
}

// behind says why an answer must not be given after all, nil if it may. concerns is
// whose mail it has but that of the user that has logged in, "" if nobody's, and inc
// of which incarnation, if that is known.
func (s *service) behind(concerns string, inc parley.Incarnation) error {
	if err := s.check(); err != nil {
		return err
	}
	refusal := refuseOwner
	if s.anybody() {
		refusal = refuseLogin
	}
	switch {
	case s.admin(), concerns == "" && !s.anybody():
		return nil
	case s.g.cluster.Policy().Auth == parley.AuthRequired:
		return refusal.Err()
	case concerns == "":
		return nil
	}
	// A user that has a password has had it, or gets it, for good: if none is seen
	// now, there was none when the answer was made, if it is the same user.
	a, err := s.g.cluster.Account(concerns)
	switch {
	case err != nil:
		return err
	case a.Verifier != "":
		return refusal.Err()
	case inc != 0 && a.Incarnation != inc:
		return parley.Errorf(parley.CodeInterrupted, "the user was deleted meanwhile")
	}
	return nil
}

// watch is a watch under way.
type watch struct {
	s    *service
	user string // whose mail it is, "" for the user's that has logged in
	seen uint64 // revision at which it was last found to be allowed, plus 1; of the one who yields

	ctx   context.Context
	end   context.CancelCauseFunc // of ctx
	yield func(parley.Message, error) bool
}

// show yields a message if that is still allowed.
func (w *watch) show(m parley.Message, err error) bool {
	if err == nil {
		if revision := w.s.g.cluster.Revision(); w.seen != revision+1 || !w.s.expires.IsZero() {
			if err = w.check(); err == nil {
				w.seen = revision + 1
			}
		}
	} else if ended(w.ctx) {
		err = context.Cause(w.ctx)
	}
	return w.yield(m, err) && err == nil
}

// check says why the watch is not allowed any more, nil if it is.
func (w *watch) check() error {
	return w.s.behind(w.user, 0)
}

// Watch implements [parley.Service]. Each message is looked at before it is
// yielded; and while none comes, the guard looks now and then.
func (s *service) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		if w := s.newWatch(ctx, user, &after, yield); w != nil {
			defer w.leave()
			s.g.cluster.Watch(w.ctx, user, after)(w.show)
		}
	}
}

// Subscribe implements [parley.Subscriber], as Watch does Service.
func (s *service) Subscribe(ctx context.Context, user string, after parley.Cursor, show func(parley.Message, error) bool) {
	go func() { // the look before the first message may wait, and end the watch
		if w := s.newWatch(ctx, user, &after, show); w != nil {
			parley.Subscribe(w.ctx, s.g.cluster, user, after, w.subscribed)
		}
	}()
}

// subscribed is show for a subscription, which ends with it.
func (w *watch) subscribed(m parley.Message, err error) bool {
	more := w.show(m, err)
	if !more {
		w.leave()
	}
	return more
}

// newWatch begins the watch of a user's mail, or yields why that is not allowed. Most
// watches wait all the time; what is needed here only is not on their stacks then.
//
//go:noinline
func (s *service) newWatch(ctx context.Context, user string, after *parley.Cursor, yield func(parley.Message, error) bool) *watch {
	refusal, concerns := s.permitReading(user)
	if refusal.Code == parley.CodeOK && concerns == "" && !s.pin(after) {
		refusal = refuseStale
	}
	w := &watch{s: s, user: concerns, yield: yield}
	revision := s.g.cluster.Revision()
	err := refusal.Err()
	if err == nil {
		err = w.check()
	}
	if err != nil {
		yield(parley.Message{}, err)
		return nil
	}
	w.ctx, w.end = context.WithCancelCause(ctx)
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	if s.g.swept > revision+1 { // a sweep has missed it
		s.g.swept = 0
	}
	if s.g.watches[w] = struct{}{}; len(s.g.watches) == 1 {
		s.g.sweeper = time.AfterFunc(s.g.cfg.Sweep, s.g.sweep)
	}
	return w
}

// leave ends it.
func (w *watch) leave() {
	w.end(nil)
	g := w.s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if delete(g.watches, w); len(g.watches) == 0 {
		g.sweeper.Stop()
	}
}

// ended reports whether the guard has ended a watch.
func ended(ctx context.Context) bool {
	err := context.Cause(ctx)
	return err != nil && parley.CodeOf(err).IsAnswer()
}

// sweep ends the watches that are not allowed any more, and comes again as long as
// there are any.
func (g *Guard) sweep() {
	g.mu.Lock()
	revision := g.cluster.Revision()
	changed := revision+1 != g.swept
	g.swept = revision + 1
	var look []*watch
	for w := range g.watches {
		if changed || !w.s.expires.IsZero() {
			look = append(look, w)
		}
	}
	g.mu.Unlock()
	for _, w := range look {
		if err := w.check(); err != nil && parley.CodeOf(err).IsAnswer() {
			w.end(err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.watches) > 0 {
		g.sweeper.Reset(g.cfg.Sweep)
	}
}
