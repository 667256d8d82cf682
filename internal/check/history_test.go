package check_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/check"
)

// script is a history of operations that come one after the other, if not said
// otherwise, on users of the first letters of the alphabet.
type script struct {
	*check.History
	t *testing.T
}

// did is an operation that is answered at once.
func (s script) did(lane int, input any, r parley.Result) { s.Invoke(lane, input).Answer(r) }

var (
	ok        = parley.Result{}
	noUser    = parley.Result{Code: parley.CodeNoSuchUser}
	taken     = parley.Result{Code: parley.CodeNameTaken}
	createA   = parley.CreateUser{Name: "a"}
	deleteA   = parley.DeleteUser{Name: "a"}
	inboxA    = parley.Inbox{User: "a"}
	unknown   = parley.Errorf(parley.CodeNoQuorum, "")
	notLeader = parley.Errorf(parley.CodeNotLeader, "")
)

func send(body string) parley.Send                 { return parley.Send{To: "a", Body: body} }
func created(inc parley.Incarnation) parley.Result { return parley.Result{Incarnation: inc} }
func sent(id parley.MessageID) parley.Result       { return parley.Result{Message: id} }
func list(names ...string) parley.Result           { return parley.Result{Names: names} }
func ack(c parley.Cursor) parley.Ack               { return parley.Ack{User: "a", UpTo: c} }
func shows(c parley.Cursor, bodies ...string) (r parley.Result) {
	r = parley.Result{Cursor: c, Unread: uint64(len(bodies))}
	for i, b := range bodies {
		c.ID = r.Cursor.ID + 1 + parley.MessageID(i)
		r.Messages = append(r.Messages, parley.Message{Cursor: c, Body: b})
	}
	return r
}
func pos(inc parley.Incarnation, id parley.MessageID) parley.Cursor {
	return parley.Cursor{Incarnation: inc, ID: id}
}

func TestHistory(t *testing.T) {
	tests := []struct {
		name string
		run  func(s script)
		bad  bool
	}{
		{"empty", func(script) {}, false},
		{"a life", func(s script) {
			s.did(1, parley.Users{}, list())
			s.did(1, createA, created(7))
			s.did(2, createA, taken)
			s.did(1, parley.Users{}, list("a", "b"))
			s.did(2, send("x"), sent(1))
			s.did(2, send("y"), sent(2))
			s.did(1, inboxA, shows(pos(7, 0), "x", "y"))
			s.did(1, ack(pos(7, 1)), ok)
			s.did(1, inboxA, shows(pos(7, 1), "y"))
			s.did(1, deleteA, ok)
			s.did(1, deleteA, noUser)
			s.did(1, inboxA, noUser)
			s.did(1, createA, created(9))
			s.did(1, ack(pos(7, 2)), ok)
			s.did(2, send("z"), sent(1))
			s.did(1, inboxA, shows(pos(9, 0), "z"))
		}, false},
		{"stale read", func(s script) {
			s.did(1, createA, created(7))
			s.did(2, send("x"), sent(1))
			s.did(1, inboxA, shows(pos(7, 0)))
		}, true},
		{"stale list", func(s script) {
			s.did(1, createA, created(7))
			s.did(2, parley.Users{}, list())
		}, true},
		{"a read that overlaps", func(s script) {
			s.did(1, createA, created(7))
			get := s.Invoke(1, inboxA)
			s.did(2, send("x"), sent(1))
			get.Answer(shows(pos(7, 0)))
		}, false},
		{"two reads that overlap disagree on the order", func(s script) {
			s.did(1, createA, created(7))
			put := s.Invoke(2, send("x"))
			s.did(1, inboxA, shows(pos(7, 0), "x"))
			s.did(3, inboxA, shows(pos(7, 0)))
			put.Answer(sent(1))
		}, true},
		{"lost", func(s script) {
			s.did(1, createA, created(7))
			s.did(1, send("x"), sent(1))
			s.did(1, send("y"), sent(1))
		}, true},
		{"stored twice", func(s script) {
			s.did(1, createA, created(7))
			s.did(1, send("x"), sent(1))
			s.did(1, inboxA, shows(pos(7, 0), "x", "x"))
		}, true},
		{"created twice", func(s script) {
			s.did(1, createA, created(7))
			s.did(1, createA, created(8))
		}, true},
		{"incarnation goes back", func(s script) {
			s.did(1, createA, created(7))
			s.did(1, deleteA, ok)
			s.did(1, createA, created(6))
		}, true},
		{"mail of the predecessor", func(s script) {
			s.did(1, createA, created(7))
			s.did(2, send("x"), sent(1))
			s.did(1, deleteA, ok)
			s.did(1, createA, created(9))
			s.did(1, inboxA, shows(pos(9, 0), "x"))
		}, true},
		{"acknowledgement for the predecessor", func(s script) {
			s.did(1, createA, created(7))
			s.did(1, deleteA, ok)
			s.did(1, createA, created(9))
			s.did(2, send("x"), sent(1))
			s.did(1, ack(pos(7, 1)), ok)
			s.did(1, inboxA, shows(pos(9, 1)))
		}, true},
		{"cursor goes back", func(s script) {
			s.did(1, createA, created(7))
			s.did(2, send("x"), sent(1))
			s.did(1, ack(pos(7, 1)), ok)
			s.did(1, inboxA, shows(pos(7, 0), "x"))
		}, true},
		{"unknown, and it happened", func(s script) {
			s.did(1, createA, created(7))
			s.Invoke(2, send("x")).Fail(unknown)
			s.did(1, inboxA, shows(pos(7, 0)))
			s.did(1, inboxA, shows(pos(7, 0), "x"))
		}, false},
		{"unknown, and it never happened", func(s script) {
			s.did(1, createA, created(7))
			s.Invoke(2, send("x")).Fail(unknown)
			s.did(1, inboxA, shows(pos(7, 0)))
		}, false},
		{"given up, and it happens after its successor", func(s script) {
			s.did(1, createA, created(7))
			s.Invoke(2, send("x")).Fail(unknown)
			s.did(2, send("y"), sent(1))
			s.did(1, inboxA, shows(pos(7, 0), "y"))
			s.did(1, inboxA, shows(pos(7, 0), "y", "x"))
		}, true},
		{"given up by one, and it happens after another's", func(s script) {
			s.did(1, createA, created(7))
			s.Invoke(2, send("x")).Fail(unknown)
			s.did(3, send("y"), sent(1))
			s.did(1, inboxA, shows(pos(7, 0), "y"))
			s.did(1, inboxA, shows(pos(7, 0), "y", "x"))
		}, false},
		{"refused, and it happened", func(s script) {
			s.did(1, createA, created(7))
			s.Invoke(2, send("x")).Fail(notLeader)
			s.did(1, inboxA, shows(pos(7, 0), "x"))
		}, true},
		{"created, and nobody was told", func(s script) {
			s.Invoke(1, createA).Fail(unknown)
			s.did(2, send("x"), sent(1))
			s.did(3, ack(pos(7, 1)), ok)
			s.did(2, inboxA, shows(pos(7, 1)))
		}, false},
		{"created, and nobody was told, and it is one of before", func(s script) {
			s.did(2, createA, created(7))
			s.did(2, deleteA, ok)
			s.Invoke(1, createA).Fail(unknown)
			s.did(2, inboxA, shows(pos(7, 0)))
		}, true},
		{"an answer that does not fit", func(s script) {
			s.did(1, createA, parley.Result{Code: parley.CodeTooManyUsers})
		}, true},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			h := check.NewHistory()
			c.run(script{h, t})
			j := h.Check(10 * time.Second)
			if bad := len(j.Findings) > 0; bad != c.bad {
				t.Errorf("findings: %v", j.Findings)
			}
			for _, f := range j.Findings {
				var page bytes.Buffer
				if err := f.Draw(&page); err != nil || page.Len() == 0 || f.Undecided || !strings.Contains(f.String(), "lane 1") {
					t.Errorf("%v: %v", f, err)
				}
			}
		})
	}
}

// Where the whole mailbox is shown while nothing else goes on, the history is cut.
func TestHistoryIsSplit(t *testing.T) {
	h := check.NewHistory()
	s := script{h, t}
	s.did(1, createA, created(7))
	var bodies []string
	for i := range 200 {
		body := string(rune('a' + i%26))
		bodies = append(bodies, body)
		s.did(1, send(body), sent(parley.MessageID(i+1)))
		s.did(1, inboxA, shows(pos(7, 0), bodies...))
	}
	if j := h.Check(time.Minute); len(j.Findings) != 0 || j.Parts != 200 || j.Largest != 3 || j.Users != 1 {
		t.Errorf("%+v", j)
	}
	s.did(1, inboxA, shows(pos(7, 0), slices.Repeat([]string{"?"}, 200)...))
	if j := h.Check(time.Minute); len(j.Findings) != 1 {
		t.Errorf("%+v", j)
	}
}

// What cannot be decided in time is a finding.
func TestUndecided(t *testing.T) {
	h := check.NewHistory()
	s := script{h, t}
	s.did(0, createA, created(7))
	for i := range 40 { // all at the same time, each order is possible
		h.Invoke(i, send(string(rune('A'+i)))).Fail(unknown)
	}
	s.did(0, inboxA, shows(pos(7, 0), "nobody sent this"))
	j := h.Check(time.Millisecond)
	if len(j.Findings) != 1 || !j.Findings[0].Undecided {
		t.Errorf("%d findings", len(j.Findings))
	}
}

func TestReplicas(t *testing.T) {
	r := check.NewReplicas()
	r.State("n1", 5, "aaa")
	r.State("n2", 5, "aaa")
	r.State("n3", 6, "bbb")
	r.Leads("n1", 2)
	r.Leads("n1", 2)
	r.Leads("n2", 3)
	if p := r.Problems(); len(p) != 0 {
		t.Error(p)
	}
	r.Entry("n1", 5, 2, 0xa, true)
	r.Entry("n2", 5, 2, 0xa, true)
	r.Entry("n1", 6, 2, 0xb, false)
	r.Entry("n2", 6, 3, 0xc, false) // not committed: of another leader
	if p := r.Problems(); len(p) != 0 {
		t.Error(p)
	}
	if c := r.Compared(); c != (check.Compared{Terms: 2, States: 2, Entries: 3}) {
		t.Errorf("%+v", c)
	}
	r.State("n3", 5, "ccc")
	r.Leads("n3", 3)
	r.Entry("n3", 6, 2, 0xd, false)
	r.Entry("n3", 5, 3, 0xe, true)
	if p := r.Problems(); len(p) != 4 || !strings.Contains(p[2], "entry 6 of term 2") || !strings.Contains(p[3], "both are committed") || !strings.Contains(p[0], "index 5") || !strings.Contains(p[1], "term 3") {
		t.Error(p)
	}
}
