package parleytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// Run checks that a service with the default [Limits] keeps every promise of
// [parley.Service] that can be seen through it, and that [parley.Session] and
// [parley.Subscribe] work over it. newService is called once and returns a service
// that is ready; it cleans up through t. On a quick service Run takes well under a second.
//
// Nothing but the promises is assumed: outcomes may come from other goroutines
// and over a network, retryable errors are retried, and the service may be in
// use by others as long as they keep away from users whose names begin with
// "suite-".
func Run(t *testing.T, newService func(t *testing.T) parley.Service) {
	t.Run("service", func(t *testing.T) {
		svc := newService(t)
		checks := map[string]func(*suite){
			"Create":             checkCreate,
			"BadNames":           checkBadNames,
			"NamesIgnoreCase":    checkNamesIgnoreCase,
			"Delete":             checkDelete,
			"Recreate":           checkRecreate,
			"UsersPages":         checkUsersPages,
			"UsersPattern":       checkUsersPattern,
			"Send":               checkSend,
			"SendRefused":        checkSendRefused,
			"InboxPages":         checkInboxPages,
			"InboxLargeBodies":   checkInboxLargeBodies,
			"Ack":                checkAck,
			"AckEarlier":         checkAckEarlier,
			"ConcurrentSenders":  checkConcurrentSenders,
			"SeenAtOnce":         checkSeenAtOnce,
			"WatchBacklog":       checkWatchBacklog,
			"WatchLive":          checkWatchLive,
			"WatchResume":        checkWatchResume,
			"WatchAckedMeantime": checkWatchAckedMeantime,
			"WatchTwo":           checkWatchTwo,
			"WatchTwoAcked":      checkWatchTwoAcked,
			"WatchUnknown":       checkWatchUnknown,
			"WatchDeleted":       checkWatchDeleted,
			"WatchFormer":        checkWatchFormer,
			"WatchCancelled":     checkWatchCancelled,
			"Once":               checkOnce,
			"OnceAtTheSameTime":  checkOnceAtTheSameTime,
			"RefusalsRepeat":     checkRefusalsRepeat,
			"RefusalsCount":      checkRefusalsCount,
			"Forgotten":          checkForgotten,
			"OutOfOrder":         checkOutOfOrder,
			"GivenUp":            checkGivenUp,
			"Expired":            checkExpired,
			"BadNumbers":         checkBadNumbers,
			"Pipelined":          checkPipelined,
			"SessionOrder":       checkSessionOrder,
			"SessionClosed":      checkSessionClosed,
			"EndedContext":       checkEndedContext,
			"Status":             checkStatus,
		}
		for name, check := range checks {
			if strings.HasPrefix(name, "Watch") {
				checks["Subscribed"+name] = asSubscribed(check)
			}
		}
		for name, check := range checks {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				check(newSuite(t, svc))
			})
		}
	})
}

// patience is how long a check waits for what must come before it fails.
const patience = 10 * time.Second

// suite is what a check works with.
type suite struct {
	*testing.T
	svc     parley.Service
	ctx     context.Context
	prefix  string          // of the names of this check's users
	session *parley.Session // for what is not the point of the check
}

func newSuite(t *testing.T, svc parley.Service) *suite {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	s := &suite{
		T: t, svc: svc, ctx: ctx,
		prefix:  fmt.Sprintf("suite-%08x-", rand.Uint32()),
		session: parley.NewSession(svc),
	}
	t.Cleanup(func() { // runs after t.Context has ended
		cancel()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.session.Close(ctx); err != nil {
			t.Errorf("closing the session: %v", err)
		}
	})
	return s
}

// name returns a name that no other check uses.
func (s *suite) name(suffix string) string { return s.prefix + suffix }

// do runs a command exactly once.
func (s *suite) do(c parley.Command) parley.Result {
	s.Helper()
	r, err := s.session.Do(s.ctx, c)
	if err != nil {
		s.Fatalf("%T: %v", c, err)
	}
	return r
}

// ok runs a command that must be answered CodeOK.
func (s *suite) ok(c parley.Command) parley.Result {
	s.Helper()
	return s.want(parley.CodeOK, c)
}

// want runs a command and checks its answer's code and, if that is a refusal,
// that it is explained.
func (s *suite) want(code parley.Code, c parley.Command) parley.Result {
	s.Helper()
	r := s.do(c)
	s.checkCode(r, code, c)
	return r
}

func (s *suite) checkCode(r parley.Result, want parley.Code, what any) {
	s.Helper()
	if r.Code != want {
		s.Fatalf("%#.200v: got %v (%s), want %v", what, r.Code, r.Detail, want)
	}
	if want != parley.CodeOK && r.Detail == "" {
		s.Errorf("%T: refused as %q without a detail", what, r.Code)
	}
}

// create makes a user of this check and returns its name and incarnation.
func (s *suite) create(suffix string) (string, parley.Incarnation) {
	s.Helper()
	name := s.name(suffix)
	r := s.ok(parley.CreateUser{Name: name})
	if r.Incarnation == 0 {
		s.Fatalf("CreateUser(%q): no incarnation", name)
	}
	return name, r.Incarnation
}

// send sends n messages "1", "2"… to a user, in order.
func (s *suite) send(to string, n int) {
	s.Helper()
	s.sendFrom(to, 1, n)
}

func (s *suite) sendFrom(to string, first, last int) {
	s.Helper()
	results := make(chan error, last)
	for i := first; i <= last; i++ {
		s.session.Start(s.ctx, parley.Send{From: "suite", To: to, Body: fmt.Sprint(i)}, func(r parley.Result, err error) {
			results <- errors.Join(err, r.Err())
		})
	}
	for i := first; i <= last; i++ {
		if err := <-results; err != nil {
			s.Fatalf("sending to %q: %v", to, err)
		}
	}
}

// get asks until there is an answer.
func (s *suite) get(q parley.Query) parley.Result {
	s.Helper()
	for {
		r, err := s.svc.Get(s.ctx, q)
		if err == nil {
			return r
		}
		s.pause(err, q)
	}
}

// inbox returns the unread mail of a user, which must exist.
func (s *suite) inbox(user string) parley.Result {
	s.Helper()
	r := s.get(parley.Inbox{User: user})
	s.checkCode(r, parley.CodeOK, parley.Inbox{User: user})
	return r
}

// request runs a numbered command until it has an answer.
func (s *suite) request(r parley.Request) parley.Result {
	s.Helper()
	for {
		result, err := parley.Do(s.ctx, s.svc, r)
		if err == nil {
			return result
		}
		if parley.CodeOf(err) == parley.CodeOutOfOrder {
			s.Fatalf("%+v: %v", r, err)
		}
		s.pause(err, r)
	}
}

// open opens a session to be numbered by hand. It is closed at the end.
func (s *suite) open() parley.SessionID {
	s.Helper()
	r := s.request(parley.Request{Command: parley.OpenSession{}})
	s.checkCode(r, parley.CodeOK, parley.OpenSession{})
	if r.Session == 0 {
		s.Fatal("OpenSession: no session")
	}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, _ = parley.Do(ctx, s.svc, parley.Request{Command: parley.CloseSession{Session: r.Session}})
	})
	return r.Session
}

// pause waits before something that failed is tried again; it fails the check
// if that makes no sense.
func (s *suite) pause(err error, what any) {
	s.Helper()
	if !parley.CodeOf(err).Retryable() {
		s.Fatalf("%#.200v: %v", what, err)
	}
	select {
	case <-time.After(5 * time.Millisecond):
	case <-s.ctx.Done():
		s.Fatalf("%#.200v: no answer in time, last: %v", what, err)
	}
}

// wantError checks that a request gets an error of the given code.
func (s *suite) wantError(code parley.Code, r parley.Request) {
	s.Helper()
	for {
		result, err := parley.Do(s.ctx, s.svc, r)
		switch {
		case err == nil:
			s.Fatalf("%+v: answered %+v, want error %v", r, result, code)
		case parley.CodeOf(err) == code:
			return
		}
		s.pause(err, r)
	}
}
