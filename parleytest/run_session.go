package parleytest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/parley-chat/parley"
)

// newSession returns a session of its own for a goroutine of the check.
func (s *suite) newSession() *parley.Session {
	session := parley.NewSession(s.svc)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := session.Close(ctx); err != nil {
			s.Errorf("closing a session: %v", err)
		}
	})
	return session
}

// text is a message to user that says body.
func text(user, body string) parley.Send { return parley.Send{From: "suite", To: user, Body: body} }

// checkSame checks that the repetition of a command got the first answer.
func (s *suite) checkSame(first, again parley.Result) {
	s.Helper()
	if again.Code != first.Code || again.Message != first.Message || again.Incarnation != first.Incarnation || again.Detail != first.Detail {
		s.Errorf("repeated: %+v, want the first answer %+v", again, first)
	}
}

func checkOnce(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	first := parley.Request{Session: id, Seq: 1, Command: text(user, "1")}
	second := parley.Request{Session: id, Seq: 2, Command: text(user, "2")}
	a := s.request(first)
	b := s.request(second)
	for range 2 { // in the order of a client that resends all, and again
		s.checkSame(a, s.request(first))
		s.checkSame(b, s.request(second))
	}
	third := s.request(parley.Request{Session: id, Seq: 3, Answered: 1, Command: text(user, "3")})
	s.checkCode(third, parley.CodeOK, "message 3")
	s.checkSame(b, s.request(second))
	s.checkBodies("after repetitions", s.mail(user), 1, 3)
}

func checkOnceAtTheSameTime(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	var wg sync.WaitGroup
	results := make([]parley.Result, 8)
	for i := range results {
		wg.Go(func() {
			for {
				r, err := parley.Do(s.ctx, s.svc, parley.Request{Session: id, Seq: 1, Command: text(user, "1")})
				if err == nil {
					results[i] = r
					return
				}
				if !parley.CodeOf(err).Retryable() || s.ctx.Err() != nil {
					s.Errorf("repetition %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, r := range results {
		s.checkSame(results[0], r)
	}
	s.checkBodies("after repetitions", s.mail(user), 1, 1)
}

// checkRefusalsRepeat: an answer stands although it would be another one today.
func checkRefusalsRepeat(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	taken := parley.Request{Session: id, Seq: 1, Command: parley.CreateUser{Name: user}}
	first := s.request(taken)
	s.checkCode(first, parley.CodeNameTaken, taken.Command)
	unknown := parley.Request{Session: id, Seq: 2, Command: text(s.name("later"), "b")}
	second := s.request(unknown)
	s.checkCode(second, parley.CodeNoSuchUser, unknown.Command)
	s.ok(parley.DeleteUser{Name: user})
	s.create("later")
	s.checkSame(first, s.request(taken))
	s.checkSame(second, s.request(unknown))
	if got := s.mail(s.name("later")); len(got) != 0 {
		s.Errorf("a refused message came: %v", got)
	}
}

// checkRefusalsCount: a refusal is an answer, whatever it is found out by, and
// the next number follows it.
func checkRefusalsCount(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	for i, c := range []struct {
		command parley.Command
		code    parley.Code
	}{
		{parley.CreateUser{Name: "bad,name"}, parley.CodeBadName},
		{text(user, "\xff"), parley.CodeBadText},
		{text(user, string(make([]byte, 64<<10+1))), parley.CodeBodyTooLarge},
		{parley.DeleteUser{Name: "bad,name"}, parley.CodeNoSuchUser},
		{text(user, "1"), parley.CodeOK},
	} {
		r := parley.Request{Session: id, Seq: uint64(i + 1), Command: c.command}
		first := s.request(r)
		s.checkCode(first, c.code, c.command)
		s.checkSame(first, s.request(r))
	}
	s.checkBodies("after refusals", s.mail(user), 1, 1)
}

func checkForgotten(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	first := parley.Request{Session: id, Seq: 1, Command: text(user, "1")}
	s.checkCode(s.request(first), parley.CodeOK, first)
	second := parley.Request{Session: id, Seq: 2, Answered: 1, Command: text(user, "2")}
	a := s.request(second)
	s.checkCode(a, parley.CodeOK, second)
	s.checkCode(s.request(first), parley.CodeForgotten, first)
	s.checkSame(a, s.request(second))
	s.checkBodies("after a late repetition", s.mail(user), 1, 2)
}

func checkOutOfOrder(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	second := parley.Request{Session: id, Seq: 2, Command: text(user, "2")}
	s.wantError(parley.CodeOutOfOrder, second)
	s.checkCode(s.request(parley.Request{Session: id, Seq: 1, Command: text(user, "1")}), parley.CodeOK, "1")
	s.checkCode(s.request(second), parley.CodeOK, "2")
	s.wantError(parley.CodeOutOfOrder, parley.Request{Session: id, Seq: 4, Answered: 2, Command: text(user, "4")})
	s.checkCode(s.request(parley.Request{Session: id, Seq: 3, Answered: 2, Command: text(user, "3")}), parley.CodeOK, "3")
	s.checkBodies("in the end", s.mail(user), 1, 3)
}

// checkGivenUp: numbers declared answered need not have come, and never take
// effect once they are.
func checkGivenUp(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	s.wantError(parley.CodeOutOfOrder, parley.Request{Session: id, Seq: 3, Answered: 1, Command: text(user, "never")})
	s.checkCode(s.request(parley.Request{Session: id, Seq: 4, Answered: 3, Command: text(user, "1")}), parley.CodeOK, "4")
	for seq := uint64(1); seq <= 3; seq++ {
		r := parley.Request{Session: id, Seq: seq, Command: text(user, "late")}
		s.checkCode(s.request(r), parley.CodeForgotten, r)
	}
	s.checkCode(s.request(parley.Request{Session: id, Seq: 5, Answered: 3, Command: text(user, "2")}), parley.CodeOK, "5")
	s.checkBodies("in the end", s.mail(user), 1, 2)
}

func checkExpired(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	unknown := parley.Request{Session: id + 1<<40, Seq: 1, Command: text(user, "never")}
	s.checkCode(s.request(unknown), parley.CodeSessionExpired, unknown)
	first := parley.Request{Session: id, Seq: 1, Command: text(user, "1")}
	s.checkCode(s.request(first), parley.CodeOK, first)
	closing := parley.Request{Command: parley.CloseSession{Session: id}}
	s.checkCode(s.request(closing), parley.CodeOK, closing)
	s.checkCode(s.request(closing), parley.CodeSessionExpired, closing)
	s.checkCode(s.request(first), parley.CodeSessionExpired, first)
	s.checkCode(s.request(parley.Request{Session: id, Seq: 2, Command: text(user, "2")}), parley.CodeSessionExpired, "2")
	s.checkBodies("in the end", s.mail(user), 1, 1)
}

func checkBadNumbers(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	for _, r := range []parley.Request{
		{Seq: 1}, {Answered: 1}, {Session: id}, {Session: id, Seq: 1, Answered: 1}, {Session: id, Seq: 1, Answered: 2},
	} {
		r.Command = text(user, "never")
		s.wantError(parley.CodeBadRequest, r)
	}
	if got := s.mail(user); len(got) != 0 {
		s.Errorf("a malformed request took effect: %v", got)
	}
	s.checkCode(s.request(parley.Request{Session: id, Seq: 1, Command: text(user, "1")}), parley.CodeOK, "1")
}

// checkPipelined: commands started one after the other are committed in that
// order or refused.
func checkPipelined(s *suite) {
	user, _ := s.create("u")
	id := s.open()
	const n = 200
	type outcome struct {
		seq uint64
		r   parley.Result
		err error
	}
	outcomes := make(chan outcome, n)
	todo := make([]uint64, n)
	for i := range todo {
		todo[i] = uint64(i + 1)
	}
	for len(todo) > 0 {
		for _, seq := range todo {
			r := parley.Request{Session: id, Seq: seq, Command: text(user, fmt.Sprint(seq))}
			s.svc.Start(s.ctx, r, func(r parley.Result, err error) { outcomes <- outcome{seq, r, err} })
		}
		failed := make(map[uint64]bool)
		for range todo {
			o := <-outcomes
			if o.err != nil {
				if s.ctx.Err() != nil || !parley.CodeOf(o.err).Retryable() {
					s.Fatalf("number %d: %v", o.seq, o.err)
				}
				failed[o.seq] = true
			} else if o.r.Code != parley.CodeOK || o.r.Message != parley.MessageID(o.seq) {
				s.Fatalf("number %d: %+v", o.seq, o.r)
			}
		}
		todo = todo[:0]
		for seq := uint64(1); seq <= n; seq++ {
			if failed[seq] {
				todo = append(todo, seq)
			}
		}
	}
	s.checkBodies("in the end", s.mail(user), 1, n)
}

// checkSessionOrder: a parley.Session over the service, used by several
// goroutines, runs all commands once, and those of each in order.
func checkSessionOrder(s *suite) {
	user, _ := s.create("u")
	session := s.newSession()
	const senders, each = 4, 25
	var wg sync.WaitGroup
	for n := range senders {
		wg.Go(func() {
			done := make(chan error, each)
			for i := range each {
				session.Start(s.ctx, parley.Send{From: fmt.Sprint(n), To: user, Body: fmt.Sprint(i)}, func(r parley.Result, err error) {
					done <- errors.Join(err, r.Err())
				})
			}
			for range each {
				if err := <-done; err != nil {
					s.Errorf("sender %d: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	next := make(map[string]int)
	for _, m := range s.mail(user) {
		if m.Body != fmt.Sprint(next[m.From]) {
			s.Fatalf("sender %s: %q in place of %d", m.From, m.Body, next[m.From])
		}
		next[m.From]++
	}
	for n := range senders {
		if got := next[fmt.Sprint(n)]; got != each {
			s.Errorf("sender %d: %d messages of %d", n, got, each)
		}
	}
}

func checkSessionClosed(s *suite) {
	user, _ := s.create("u")
	session := parley.NewSession(s.svc)
	if err := session.Close(s.ctx); err != nil {
		s.Errorf("closing an unused session: %v", err)
	}
	session = parley.NewSession(s.svc)
	if _, err := session.Do(s.ctx, text(user, "1")); err != nil {
		s.Fatal(err)
	}
	if err := session.Close(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.checkBodies("in the end", s.mail(user), 1, 1)
}

// checkEndedContext: done is called even so, with an error or an answer.
func checkEndedContext(s *suite) {
	user, _ := s.create("u")
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	called := make(chan error, 2)
	s.svc.Start(ctx, parley.Request{Command: text(user, "perhaps")}, func(_ parley.Result, err error) { called <- err })
	select {
	case err := <-called:
		if c := parley.CodeOf(err); err != nil && c.IsAnswer() {
			s.Errorf("the error %v bears an answer's code %d", err, c)
		}
	case <-s.ctx.Done():
		s.Fatal("done is never called")
	}
	if _, err := s.svc.Get(ctx, parley.Inbox{User: user}); err != nil && !errors.Is(err, context.Canceled) {
		s.Errorf("Get with an ended context: %v", err)
	}
	select {
	case <-called:
		s.Error("done was called twice")
	default:
	}
}
