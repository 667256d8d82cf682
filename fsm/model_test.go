package fsm

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// model is the state machine as simply as it can be said.
type model struct {
	users    map[string]*modelUser
	sessions map[parley.SessionID]*modelSession
	members  map[string]string
	limits   Limits
	now      time.Time
}

type modelUser struct {
	shown       string
	incarnation parley.Incarnation
	last        parley.MessageID
	cursor      parley.MessageID
	mail        []parley.Message
}

type modelSession struct {
	used           time.Time
	last, answered uint64
	replies        map[uint64]parley.Result
}

func newModel() *model {
	return &model{
		users: map[string]*modelUser{}, sessions: map[parley.SessionID]*modelSession{}, members: map[string]string{},
		limits: Limits{}.WithDefaults(), now: time.Unix(0, 0),
	}
}

func (m *model) apply(r parley.Request, pos uint64) parley.Result {
	if r.Session == 0 {
		return m.perform(r.Command, pos)
	}
	s := m.sessions[r.Session]
	if s == nil {
		return parley.Result{Code: parley.CodeSessionExpired}
	}
	s.used = m.now
	s.answered = max(s.answered, r.Answered)
	s.last = max(s.last, s.answered)
	switch {
	case r.Seq <= s.answered:
		return parley.Result{Code: parley.CodeForgotten}
	case r.Seq <= s.last:
		return s.replies[r.Seq]
	case r.Seq > s.last+1:
		return parley.Result{Code: parley.CodeOutOfOrder}
	case r.Seq-s.answered > 4096:
		return parley.Result{Code: parley.CodeOverloaded}
	}
	s.last = r.Seq
	s.replies[r.Seq] = m.perform(r.Command, pos)
	return s.replies[r.Seq]
}

func (m *model) perform(c parley.Command, pos uint64) parley.Result {
	key := strings.ToLower(c.Key())
	u := m.users[key]
	switch c := c.(type) {
	case parley.CreateUser:
		switch {
		case strings.Contains(c.Name, ","):
			return parley.Result{Code: parley.CodeBadName}
		case u != nil:
			return parley.Result{Code: parley.CodeNameTaken}
		case uint64(len(m.users)) >= m.limits.Users:
			return parley.Result{Code: parley.CodeTooManyUsers}
		}
		m.users[key] = &modelUser{shown: c.Name, incarnation: parley.Incarnation(pos)}
		return parley.Result{Incarnation: parley.Incarnation(pos)}
	case parley.OpenSession:
		if uint64(len(m.sessions)) >= m.limits.Sessions {
			return parley.Result{Code: parley.CodeTooManySessions}
		}
		m.sessions[parley.SessionID(pos)] = &modelSession{used: m.now, replies: map[uint64]parley.Result{}}
		return parley.Result{Session: parley.SessionID(pos)}
	case parley.CloseSession:
		if m.sessions[c.Session] == nil {
			return parley.Result{Code: parley.CodeSessionExpired}
		}
		delete(m.sessions, c.Session)
		return parley.Result{}
	}
	if u == nil {
		return parley.Result{Code: parley.CodeNoSuchUser}
	}
	switch c := c.(type) {
	case parley.DeleteUser:
		delete(m.users, key)
	case parley.Send:
		bytes := len(c.From) + len(c.Body)
		for _, x := range u.mail {
			bytes += len(x.From) + len(x.Body)
		}
		switch {
		case uint64(len(c.Body)) > m.limits.BodyBytes:
			return parley.Result{Code: parley.CodeBodyTooLarge}
		case uint64(len(u.mail)) >= m.limits.MailboxMessages, uint64(bytes) > m.limits.MailboxBytes:
			return parley.Result{Code: parley.CodeMailboxFull}
		}
		u.last++
		u.mail = append(u.mail, parley.Message{
			Cursor: parley.Cursor{Incarnation: u.incarnation, ID: u.last}, From: c.From, Body: c.Body, Time: m.now.UTC(),
		})
		return parley.Result{Message: u.last}
	case parley.Ack:
		if c.UpTo.Incarnation == 0 || c.UpTo.Incarnation == u.incarnation {
			u.cursor = max(u.cursor, min(c.UpTo.ID, u.last))
			u.mail = slices.DeleteFunc(u.mail, func(x parley.Message) bool { return x.ID <= u.cursor })
		}
	}
	return parley.Result{}
}

func (m *model) expire(idle time.Duration) {
	for id, s := range m.sessions {
		if m.now.Sub(s.used) > idle {
			delete(m.sessions, id)
		}
	}
}

// dump writes down what dump does.
func (m *model) dump() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m.users)) {
		u := m.users[key]
		fmt.Fprintf(&b, "user %s incarnation=%#x cursor=%d unread=%d\n", u.shown, uint64(u.incarnation), u.cursor, len(u.mail))
		for _, x := range u.mail {
			fmt.Fprintf(&b, "  %d %s <%s> %s\n", x.ID, x.Time.Format("15:04:05"), x.From, x.Body)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.members)) {
		fmt.Fprintf(&b, "member %s server= client=%s peer=\n", id, m.members[id])
	}
	replies := 0
	for _, s := range m.sessions {
		replies += int(s.last - s.answered)
	}
	fmt.Fprintf(&b, "users=%d sessions=%d replies=%d\n", len(m.users), len(m.sessions), replies)
	return b.String()
}

// history is a random log, with the replies that the model gives.
type history struct {
	logs    []*raft.Log
	replies [][]parley.Result // without details; nil for a configuration
	dump    string
}

// generate makes a random history of n entries in which names, sessions and
// numbers collide often.
func generate(t testing.TB, rng *rand.Rand, n int) *history {
	m := newModel()
	h := &history{}
	type client struct {
		id             parley.SessionID
		next, answered uint64
		sent           map[uint64]parley.Command
	}
	var clients []*client
	now := epoch
	index := uint64(0)
	for range n {
		index += 1 + rng.Uint64N(2)*rng.Uint64N(3) // no-ops and barriers leave gaps
		if rng.IntN(40) == 0 {
			conf := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(fmt.Sprint(index)), Address: "n1"}}}
			h.logs = append(h.logs, &raft.Log{Index: index, Term: 1 + index/100, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)})
			h.replies = append(h.replies, nil)
			continue
		}
		now = now.Add(time.Duration(rng.IntN(3000)-500) * time.Millisecond)
		if now.After(m.now) {
			m.now = now
		}
		var b Batch
		var replies []parley.Result
		for range rng.IntN(8) {
			pos := position(index, b.Len())
			switch k := rng.IntN(100); {
			case k == 0:
				b.AddExpireSessions(20 * time.Second)
				m.expire(20 * time.Second)
				replies = append(replies, parley.Result{})
				continue
			case k == 1:
				l := Limits{Users: 4 + rng.Uint64N(8), Sessions: 1 + rng.Uint64N(6), BodyBytes: 20, MailboxMessages: 5 + rng.Uint64N(40), MailboxBytes: 200 + rng.Uint64N(900)}
				b.AddSetLimits(l)
				m.limits = l.WithDefaults()
				replies = append(replies, parley.Result{})
				continue
			}
			id := fmt.Sprint("n", rng.IntN(3))
			switch rng.IntN(60) {
			case 0:
				b.AddSetMember(parley.Member{ID: id, Client: fmt.Sprint(pos)})
				m.members[id] = fmt.Sprint(pos)
				replies = append(replies, parley.Result{})
				continue
			case 1:
				b.AddRemoveMember(id)
				delete(m.members, id)
				replies = append(replies, parley.Result{})
				continue
			}
			r := parley.Request{Command: randomCommand(rng)}
			if len(clients) > 0 && rng.IntN(4) > 0 {
				switch r.Command.(type) {
				case parley.OpenSession, parley.CloseSession:
				default:
					c := clients[rng.IntN(len(clients))]
					seq := c.next
					if rng.IntN(4) == 0 {
						seq = max(c.answered+1, seq-rng.Uint64N(min(seq, 6))+rng.Uint64N(3)/2)
					}
					if rng.IntN(3) == 0 {
						c.answered = rng.Uint64N(seq-c.answered) + c.answered
					}
					if old, ok := c.sent[seq]; ok {
						r.Command = old
					}
					c.sent[seq] = r.Command
					c.next = max(c.next, seq+1)
					r.Session, r.Seq, r.Answered = c.id, seq, min(c.answered, seq-1)
				}
			}
			if _, answered := b.Add(r); answered {
				continue
			}
			want := m.apply(r, pos)
			if want.Session != 0 {
				clients = append(clients, &client{id: want.Session, next: 1, sent: map[uint64]parley.Command{}})
			}
			replies = append(replies, want)
		}
		h.logs = append(h.logs, &raft.Log{Index: index, Term: 1 + index/100, Type: raft.LogCommand, Data: append([]byte(nil), b.Encode(now)...)})
		h.replies = append(h.replies, replies)
	}
	h.dump = m.dump()
	return h
}

func randomCommand(rng *rand.Rand) parley.Command {
	name := []string{"ann", "Ann", "bob", "BOB", "cy", "dee", "Eve", "fay", "gus", "a,b"}[rng.IntN(10)]
	switch k := rng.IntN(100); {
	case k < 12:
		return parley.CreateUser{Name: name}
	case k < 16:
		return parley.DeleteUser{Name: name}
	case k < 66:
		return parley.Send{From: name, To: []string{"ann", "BOB", "cy"}[rng.IntN(3)], Body: strings.Repeat("x", rng.IntN(24))}
	case k < 92:
		upTo := parley.Cursor{ID: parley.MessageID(rng.IntN(40))}
		if rng.IntN(8) == 0 {
			upTo.Incarnation = parley.Incarnation(position(rng.Uint64N(50), 0))
		}
		if rng.IntN(8) == 0 {
			upTo.ID = 1 << 40
		}
		return parley.Ack{User: name, UpTo: upTo}
	case k < 97:
		return parley.OpenSession{}
	}
	return parley.CloseSession{Session: parley.SessionID(position(rng.Uint64N(60), rng.IntN(3)))}
}

// check compares an entry's response with the model's replies.
func (h *history) check(t testing.TB, i int, response any) {
	t.Helper()
	if h.replies[i] == nil {
		if response != nil && response != ErrApplied && h.logs[i].Type == raft.LogConfiguration {
			t.Fatalf("entry %d: response to a configuration: %v", h.logs[i].Index, response)
		}
		return
	}
	got, ok := response.([]parley.Result)
	if !ok {
		t.Fatalf("entry %d: %v", h.logs[i].Index, response)
	}
	for j := range got {
		got[j].Detail = ""
	}
	if fmt.Sprint(got) != fmt.Sprint(h.replies[i]) {
		t.Fatalf("entry %d:\n got %v\nwant %v", h.logs[i].Index, got, h.replies[i])
	}
}
