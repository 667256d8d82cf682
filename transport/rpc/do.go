package rpc

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"time"

	"github.com/parley-chat/parley"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
	"github.com/parley-chat/parley/internal/pause"
)

// The pauses between tries: the first, and the longest.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = 320 * time.Millisecond
)

// overtaken is how often a command is tried whose predecessor is missing. Calls
// that a client makes one right after the other may overtake each other on their
// way; this is about a quarter of a second.
const overtaken = 7

// sessions number the commands of clients that do not do it themselves, so that
// each takes effect once although it may have to be tried more than once. There
// can be several because a command waits for those before it in its session. The
// last one is for commands about accounts, which take long to be hashed.
type sessions struct {
	seed maphash.Seed
	all  []*parley.Session
}

// anybodysSessions is how many sessions those have together who have not logged in.
const anybodysSessions = 17

func newSessions(svc parley.Service, n int) sessions {
	s := sessions{seed: maphash.MakeSeed(), all: make([]*parley.Session, n)}
	for i := range s.all {
		s.all[i] = parley.NewSession(svc)
	}
	return s
}

// of returns the session for a command.
func (s *sessions) of(c parley.Command) *parley.Session {
	last := len(s.all) - 1
	switch c := c.(type) {
	case parley.CreateUser:
		if c.Password != "" {
			return s.all[last]
		}
	case parley.SetPassword:
		return s.all[last]
	}
	return s.all[maphash.String(s.seed, c.Key())%uint64(max(last, 1))]
}

func (s *sessions) close(ctx context.Context, log *slog.Logger) {
	var errs []error
	for _, session := range s.all {
		errs = append(errs, session.Close(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		log.Debug("sessions left to expire", "error", err)
	}
}

// do runs a command once: numbered by the client, or else by the gateway. The
// error is a status, for refusals too.
func (g *Gateway) do(ctx context.Context, c parley.Command, once *parleyv1.Once) (r parley.Result, err error) {
	f := flowOf(ctx)
	defer f.end()
	pass, err := g.cfg.Gate.Enter(ctx, &f.Flow, f.begin())
	if err != nil {
		return r, waited(ctx, err)
	}
	defer pass.Leave()
	if once == nil {
		r, err = callOf(ctx).caller.sessions.of(c).Do(ctx, c)
	} else {
		r, err = g.repeat(ctx, parley.Request{
			Session: parley.SessionID(once.GetSessionId()), Seq: once.GetSequence(), Answered: once.GetAnswered(), Command: c,
		})
	}
	return outcome(ctx, r, err)
}

// bare runs a command that needs no number, since repeating it is harmless. The
// error is a status, for refusals too.
func (g *Gateway) bare(ctx context.Context, c parley.Command) (parley.Result, error) {
	if err := g.turn(ctx); err != nil {
		return parley.Result{}, err
	}
	r, err := g.repeat(ctx, parley.Request{Command: c})
	return outcome(ctx, r, err)
}

// outcome turns refusals and non-answers into statuses.
func outcome(ctx context.Context, r parley.Result, err error) (parley.Result, error) {
	switch {
	case err != nil:
		return r, failure(ctx, err)
	case r.Code != parley.CodeOK:
		return r, refusal(r)
	}
	return r, nil
}

// repeat starts a request until it has an answer, fails for good, or ctx ends.
// Repeating it must be harmless.
func (g *Gateway) repeat(ctx context.Context, r parley.Request) (parley.Result, error) {
	svc := callOf(ctx).caller.svc
	try := func() (parley.Result, error) { return parley.Do(ctx, svc, r) }
	if r.Session != 0 {
		ln := g.lanes.enter(r.Session)
		defer g.lanes.leave(ln)
		ln.arrive(r)
		defer ln.depart(r.Seq)
		try = func() (parley.Result, error) { return ln.do(ctx, svc, r) }
	}
	maybe := false // an earlier try may have taken effect
	early := 0
	for n := 0; ; n++ {
		result, err := try()
		if err == nil {
			if result.Code.SessionOver() && maybe {
				return expiredMeanwhile(r)
			}
			return result, nil
		}
		code := parley.CodeOf(err)
		if code == parley.CodeOutOfOrder {
			early++
		}
		if !code.Retryable() || early >= overtaken || !pause.For(ctx, pause.Backoff(n, firstPause, lastPause)) {
			return result, err
		}
		maybe = maybe || !code.NotApplied()
	}
}

// expiredMeanwhile is the outcome of a request whose session is gone after a try
// that may have taken effect.
func expiredMeanwhile(r parley.Request) (parley.Result, error) {
	if _, ok := r.Command.(parley.CloseSession); ok {
		return parley.Result{}, nil // that try has closed it
	}
	return parley.Result{}, parley.Errorf(parley.CodeOutcomeUnknown,
		"session %d expired while the command was under way", r.Session)
}

// get asks until there is an answer or ctx ends. The error is a status, for
// refusals too.
func (g *Gateway) get(ctx context.Context, q parley.Query) (parley.Result, error) {
	if err := g.turn(ctx); err != nil {
		return parley.Result{}, err
	}
	for n := 0; ; n++ {
		r, err := callOf(ctx).caller.svc.Get(ctx, q)
		if err == nil || !parley.CodeOf(err).Retryable() || !pause.For(ctx, pause.Backoff(n, firstPause, lastPause)) {
			return outcome(ctx, r, err)
		}
	}
}
