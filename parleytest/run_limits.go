package parleytest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/parley-chat/parley"
)

// RunLimits checks that a service enforces the limits that it was made with.
// They should be small (a few of each; bodies of at least 16 bytes and a few
// bodies to a mailbox), and the service empty and in nobody else's use.
func RunLimits(t *testing.T, limits Limits, newService func(t *testing.T) parley.Service) {
	t.Run("limits", func(t *testing.T) {
		svc := newService(t)
		limits = limits.withDefaults()
		for _, check := range []struct { // one after the other: they need what the others would use
			name string
			run  func(*suite, Limits)
		}{
			{"Body", checkLimitBody},
			{"MailboxMessages", checkLimitMailboxMessages},
			{"MailboxBytes", checkLimitMailboxBytes},
			{"Users", checkLimitUsers},
			{"Sessions", checkLimitSessions},
		} {
			t.Run(check.name, func(t *testing.T) { check.run(newSuite(t, svc), limits) })
		}
	})
}

// wantLimit checks that a command is refused because of a limit and that the
// detail names it.
func (s *suite) wantLimit(code parley.Code, limit int, c parley.Command) {
	s.Helper()
	if r := s.want(code, c); !strings.Contains(r.Detail, fmt.Sprint(limit)) {
		s.Errorf("%v: the detail %q does not name the limit %d", code, r.Detail, limit)
	}
}

func checkLimitBody(s *suite, l Limits) {
	user, _ := s.create("u")
	s.ok(text(user, strings.Repeat("x", l.BodyBytes)))
	s.wantLimit(parley.CodeBodyTooLarge, l.BodyBytes, text(user, strings.Repeat("x", l.BodyBytes+1)))
	s.ok(parley.DeleteUser{Name: user})
}

func checkLimitMailboxMessages(s *suite, l Limits) {
	user, _ := s.create("u")
	s.send(user, l.MailboxMessages)
	s.wantLimit(parley.CodeMailboxFull, l.MailboxMessages, text(user, "x"))
	s.ok(parley.Ack{User: user, UpTo: parley.Cursor{ID: 1}}) // room for one
	s.sendFrom(user, l.MailboxMessages+1, l.MailboxMessages+1)
	s.wantLimit(parley.CodeMailboxFull, l.MailboxMessages, text(user, "x"))
	s.checkBodies("in the end", s.mail(user), 2, l.MailboxMessages+1)
	s.ok(parley.DeleteUser{Name: user})
}

func checkLimitMailboxBytes(s *suite, l Limits) {
	user, _ := s.create("u")
	n := l.MailboxBytes / l.BodyBytes
	for range n {
		s.ok(text(user, strings.Repeat("x", l.BodyBytes)))
	}
	s.wantLimit(parley.CodeMailboxFull, l.MailboxBytes, text(user, strings.Repeat("x", l.BodyBytes)))
	s.ok(parley.Ack{User: user, UpTo: parley.Cursor{ID: 1}})
	s.ok(text(user, strings.Repeat("x", l.BodyBytes)))
	s.wantLimit(parley.CodeMailboxFull, l.MailboxBytes, text(user, strings.Repeat("x", l.BodyBytes)))
	s.ok(parley.DeleteUser{Name: user})
}

func checkLimitUsers(s *suite, l Limits) {
	for i := range l.Users {
		s.create(fmt.Sprint(i))
	}
	s.wantLimit(parley.CodeTooManyUsers, l.Users, parley.CreateUser{Name: s.name("more")})
	s.want(parley.CodeNameTaken, parley.CreateUser{Name: s.name("0")})
	s.ok(parley.DeleteUser{Name: s.name("0")})
	s.create("more")
	s.ok(parley.DeleteUser{Name: s.name("more")})
	for i := 1; i < l.Users; i++ {
		s.ok(parley.DeleteUser{Name: s.name(fmt.Sprint(i))})
	}
}

func checkLimitSessions(s *suite, l Limits) {
	user, _ := s.create("u") // opens the check's own session
	var last parley.SessionID
	for i := 1; i < l.Sessions; i++ {
		last = s.open()
	}
	full := s.request(parley.Request{Command: parley.OpenSession{}})
	s.checkCode(full, parley.CodeTooManySessions, parley.OpenSession{})
	if !strings.Contains(full.Detail, fmt.Sprint(l.Sessions)) {
		s.Errorf("the detail %q does not name the limit %d", full.Detail, l.Sessions)
	}
	s.ok(parley.Ack{User: user}) // those that are open go on
	if last != 0 {
		s.checkCode(s.request(parley.Request{Command: parley.CloseSession{Session: last}}), parley.CodeOK, "close")
		s.open()
	}
	s.ok(parley.DeleteUser{Name: user})
}
