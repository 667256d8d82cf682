package parleytest

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley"
)

func checkSend(s *suite) {
	to, born := s.create("u")
	sent := []parley.Send{
		{From: "suite-sender", To: to, Body: "hello"},
		{From: "", To: to, Body: "a,b,,c, "},
		{From: "Nobody You Know", To: to, Body: ""},
		{From: to, To: to, Body: "ünïcode 🎉\n\ttabs"},
		{From: "x", To: to, Body: strings.Repeat("x", 64<<10)}, // the longest
	}
	start := time.Now()
	for i, c := range sent {
		if r := s.ok(c); r.Message != parley.MessageID(i+1) {
			s.Errorf("message %d got number %d", i+1, r.Message)
		}
	}
	got := s.mail(to)
	if len(got) != len(sent) {
		s.Fatalf("%d messages of %d", len(got), len(sent))
	}
	for i, m := range got {
		if m.Cursor != (parley.Cursor{Incarnation: born, ID: parley.MessageID(i + 1)}) || m.From != sent[i].From || m.Body != sent[i].Body {
			s.Errorf("message %d: %.200v, want %.200v", i+1, m, sent[i])
		}
		if d := m.Time.Sub(start); d < -time.Minute || d > time.Minute {
			s.Errorf("message %d: time %v is far from now", i+1, m.Time)
		}
		if i > 0 && m.Time.Before(got[i-1].Time) {
			s.Errorf("message %d: time %v is before its predecessor's %v", i+1, m.Time, got[i-1].Time)
		}
	}
}

func checkSendRefused(s *suite) {
	to, _ := s.create("u")
	s.want(parley.CodeNoSuchUser, parley.Send{To: s.name("nobody"), Body: "b"})
	s.want(parley.CodeBadText, parley.Send{To: to, Body: "a\xffb"})
	r := s.want(parley.CodeBodyTooLarge, parley.Send{To: to, Body: strings.Repeat("x", 64<<10+1)})
	if !strings.Contains(r.Detail, "65536") || !strings.Contains(r.Detail, "65537") {
		s.Errorf("the detail %q does not name size and limit", r.Detail)
	}
	if r := s.ok(parley.Send{To: to, Body: "b"}); r.Message != 1 {
		s.Errorf("refused messages took numbers: the first accepted one got %d", r.Message)
	}
	if r := s.inbox(to); r.Unread != 1 {
		s.Errorf("%d unread", r.Unread)
	}
}

// mail returns all unread mail of a user, from as many pages as it takes.
func (s *suite) mail(user string) []parley.Message {
	s.Helper()
	return s.mailPages(parley.Inbox{User: user})
}

func (s *suite) mailPages(q parley.Inbox) []parley.Message {
	s.Helper()
	var all []parley.Message
	for {
		r := s.get(q)
		s.checkCode(r, parley.CodeOK, q)
		if q.Limit > 0 && len(r.Messages) > q.Limit {
			s.Fatalf("%d messages although the limit is %d", len(r.Messages), q.Limit)
		}
		all = append(all, r.Messages...)
		if !r.More {
			return all
		}
		if len(r.Messages) == 0 {
			s.Fatalf("%+v: more, but nothing to go on with", q)
		}
		q.After = r.Messages[len(r.Messages)-1].Cursor
	}
}

// checkBodies checks that messages are first, first+1… both in number and text.
func (s *suite) checkBodies(what string, got []parley.Message, first, last int) {
	s.Helper()
	if len(got) != last-first+1 {
		s.Fatalf("%s: %d messages, want %d to %d: %.300v", what, len(got), first, last, got)
	}
	for i, m := range got {
		if m.ID != parley.MessageID(first+i) || m.Body != fmt.Sprint(first+i) {
			s.Fatalf("%s: in place of message %d: %.200v", what, first+i, m)
		}
	}
}

func checkInboxPages(s *suite) {
	user, born := s.create("u")
	const n = 7
	s.send(user, n)
	for _, limit := range []int{0, 1, 2, 3, 6, 7, 8, 1 << 30} {
		s.checkBodies(fmt.Sprintf("pages of %d", limit), s.mailPages(parley.Inbox{User: user, Limit: limit}), 1, n)
	}
	for after := range n + 1 {
		q := parley.Inbox{User: user, After: parley.Cursor{Incarnation: born, ID: parley.MessageID(after)}}
		r := s.get(q)
		s.checkBodies(fmt.Sprintf("after %d", after), r.Messages, after+1, n)
		if r.Unread != n || r.Cursor != (parley.Cursor{Incarnation: born}) || r.More {
			s.Errorf("after %d: unread %d, cursor %v, more %v", after, r.Unread, r.Cursor, r.More)
		}
	}
	r := s.get(parley.Inbox{User: user, Limit: -1})
	if len(r.Messages) != 0 || r.Unread != n || r.Cursor.Incarnation != born {
		s.Errorf("inbox without messages: %+v", r)
	}
	s.ok(parley.Ack{User: user, UpTo: parley.Cursor{Incarnation: born, ID: 3}})
	s.checkBodies("after 1, with 3 acknowledged",
		s.mailPages(parley.Inbox{User: user, After: parley.Cursor{Incarnation: born, ID: 1}, Limit: 2}), 4, n)
}

func checkInboxLargeBodies(s *suite) {
	user, _ := s.create("u")
	const n = 6
	for i := range n {
		s.ok(parley.Send{To: user, Body: strings.Repeat(string(rune('a'+i)), 50<<10)})
	}
	got := s.mail(user)
	if len(got) != n {
		s.Fatalf("%d messages of %d", len(got), n)
	}
	for i, m := range got {
		if m.ID != parley.MessageID(i+1) || len(m.Body) != 50<<10 || m.Body[0] != byte('a'+i) {
			s.Errorf("message %d: %.100v", i+1, m)
		}
	}
}

func checkAck(s *suite) {
	user, born := s.create("u")
	s.send(user, 5)
	for _, step := range []struct {
		upTo   parley.Cursor
		unread int
	}{
		{parley.Cursor{Incarnation: born, ID: 2}, 3},
		{parley.Cursor{Incarnation: born, ID: 2}, 3}, // again
		{parley.Cursor{Incarnation: born, ID: 1}, 3}, // behind
		{parley.Cursor{Incarnation: born - 1, ID: 5}, 3},
		{parley.Cursor{Incarnation: born + 1, ID: 5}, 3},
		{parley.Cursor{}, 3},
		{parley.Cursor{ID: 3}, 2},                     // whoever it is
		{parley.Cursor{Incarnation: born, ID: 99}, 0}, // ahead
	} {
		s.ok(parley.Ack{User: user, UpTo: step.upTo})
		r := s.inbox(user)
		if int(r.Unread) != step.unread || int(r.Cursor.ID) != 5-step.unread || r.Cursor.Incarnation != born {
			s.Fatalf("after ack of %v: unread %d, cursor %v, want %d unread", step.upTo, r.Unread, r.Cursor, step.unread)
		}
		s.checkBodies(fmt.Sprintf("after ack of %v", step.upTo), r.Messages, 6-step.unread, 5)
	}
	// The ack ahead has not reached into the future.
	s.sendFrom(user, 6, 7)
	s.checkBodies("after an ack ahead", s.mail(user), 6, 7)
}

// checkAckEarlier: an ack without a session means the same each time.
func checkAckEarlier(s *suite) {
	user, born := s.create("u")
	s.send(user, 3)
	ack := parley.Request{Command: parley.Ack{User: user, UpTo: parley.Cursor{Incarnation: born, ID: 2}}}
	for range 2 {
		s.checkCode(s.request(ack), parley.CodeOK, ack.Command)
	}
	s.checkBodies("after the acks", s.mail(user), 3, 3)
}

// checkConcurrentSenders: each sender's messages keep their order, and the
// numbers have neither gaps nor repeats.
func checkConcurrentSenders(s *suite) {
	user, _ := s.create("u")
	const senders, each = 6, 12
	var wg sync.WaitGroup
	for n := range senders {
		session := s.newSession()
		wg.Go(func() {
			done := make(chan error, each)
			for i := range each {
				c := parley.Send{From: fmt.Sprint(n), To: user, Body: fmt.Sprint(i)}
				session.Start(s.ctx, c, func(_ parley.Result, err error) { done <- err })
			}
			for range each {
				if err := <-done; err != nil {
					s.Errorf("sender %d: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	got := s.mail(user)
	if len(got) != senders*each {
		s.Fatalf("%d messages of %d", len(got), senders*each)
	}
	next := make(map[string]int)
	for i, m := range got {
		if m.ID != parley.MessageID(i+1) {
			s.Fatalf("message %d has number %d", i+1, m.ID)
		}
		if m.Body != fmt.Sprint(next[m.From]) {
			s.Fatalf("sender %s: %q in place of %d", m.From, m.Body, next[m.From])
		}
		next[m.From]++
	}
}

// checkSeenAtOnce: a query reflects every command acknowledged before it.
func checkSeenAtOnce(s *suite) {
	user, _ := s.create("u")
	other := s.name("other")
	for i := range 5 {
		s.ok(parley.Send{To: user, Body: "b"})
		if r := s.get(parley.Inbox{User: user, Limit: -1}); r.Unread != uint64(i+1) {
			s.Fatalf("%d unread right after message %d was acknowledged", r.Unread, i+1)
		}
		s.ok(parley.CreateUser{Name: other})
		if got := s.list("other$"); len(got) != 1 {
			s.Fatalf("round %d: the user is not listed right after its creation", i)
		}
		s.ok(parley.DeleteUser{Name: other})
		if got := s.list("other$"); len(got) != 0 {
			s.Fatalf("round %d: the user is listed right after its deletion", i)
		}
	}
}
