package parleytest

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"

	"github.com/parley-chat/parley"
)

// Window is how many commands of a session may be unanswered at a time.
const window = 4096

// maxRecent is how far a watch may fall behind before it misses what another
// reader acknowledges.
const maxRecent = 64

// maxName is the longest name of a user in bytes.
const maxName = 64

// session remembers the replies that its client may still ask for.
type session struct {
	last     uint64 // highest number applied
	answered uint64 // the client asks for nothing at or below it
	replies  map[uint64]parley.Result
	owner    uint64 // whose it is
}

// mailbox is a user.
type mailbox struct {
	name    string // as created
	born    parley.Incarnation
	sent    parley.MessageID // number of the last message
	cursor  parley.MessageID
	unread  []parley.Message
	bytes   int              // texts of unread
	recent  []parley.Message // the last ones, read or not, for watches that follow closely
	login   *login           // nil: it has no password
	changed chan struct{}    // closed and replaced when mail comes; closed when the user goes
}

// fold returns the form of a name that is compared and the one that is shown.
func fold(name string) (key, shown string, err error) {
	if strings.Contains(name, ",") {
		return "", "", fmt.Errorf("name %.80q contains a comma", name)
	}
	if shown, err = precis.UsernameCasePreserved.String(name); err == nil {
		key, err = precis.UsernameCaseMapped.String(shown)
	}
	if err != nil {
		return "", "", fmt.Errorf("name %.80q: %w", name, err)
	}
	if n := max(len(shown), len(key)); n == 0 || n > maxName {
		return "", "", fmt.Errorf("name %.80q has %d bytes, allowed are 1 to %d", name, n, maxName)
	}
	return key, shown, nil
}

func refuse(c parley.Code, format string, args ...any) parley.Result {
	return parley.Result{Code: c, Detail: fmt.Sprintf(format, args...)}
}

func noSuchUser(name string) parley.Result {
	return refuse(parley.CodeNoSuchUser, "no user is named %.80q", name)
}

// request applies r once if it belongs to a session, and keeps its number in
// order. mu is held.
func (f *Fake) request(r parley.Request) (parley.Result, error) {
	if (r.Session == 0) != (r.Seq == 0) || r.Session == 0 && r.Answered != 0 || r.Session != 0 && r.Answered >= r.Seq {
		return parley.Result{}, parley.Errorf(parley.CodeBadRequest,
			"session %d, number %d, answered %d do not go together", r.Session, r.Seq, r.Answered)
	}
	if r.Session == 0 {
		return f.apply(r)
	}
	switch r.Command.(type) {
	case parley.OpenSession, parley.CloseSession:
		return parley.Result{}, parley.Errorf(parley.CodeBadRequest, "%T belongs to no session", r.Command)
	}
	s := f.sessions[r.Session]
	if s == nil || s.owner != owner(r.As) {
		return refuse(parley.CodeSessionExpired, "session %d is not open", r.Session), nil
	}
	s.forget(r.Answered)
	switch {
	case r.Seq <= s.answered:
		return refuse(parley.CodeForgotten, "number %d was declared answered", r.Seq), nil
	case r.Seq <= s.last:
		return s.replies[r.Seq], nil
	case r.Seq-s.answered > window:
		return parley.Result{}, parley.Errorf(parley.CodeOverloaded, "more than %d commands unanswered", window)
	case r.Seq > s.last+1:
		return parley.Result{}, parley.Errorf(parley.CodeOutOfOrder, "number %d came while %d is missing", r.Seq, s.last+1)
	}
	result, err := f.apply(r)
	if err == nil {
		s.last = r.Seq
		s.replies[r.Seq] = result
	}
	return result, err
}

// forget drops the replies that the client has declared answered.
func (s *session) forget(answered uint64) {
	if answered <= s.answered {
		return
	}
	s.answered = answered
	s.last = max(s.last, answered)
	for seq := range s.replies {
		if seq <= answered {
			delete(s.replies, seq)
		}
	}
}

// apply carries out a command, if whoever makes it may. mu is held.
func (f *Fake) apply(r parley.Request) (parley.Result, error) {
	f.log++
	if now := f.Now().Round(time.Microsecond); now.After(f.stamp) {
		f.stamp = now
	}
	if refusal := f.authorize(r.As, r.Command); refusal.Code != parley.CodeOK {
		return refusal, nil
	}
	switch c := r.Command.(type) {
	case parley.CreateUser:
		if c.Password != "" || c.Invite != "" {
			return parley.Result{}, parley.Errorf(parley.CodeBadRequest, "a password must be hashed before it is replicated")
		}
		return f.createUser(r.As, parley.StoreUser{Name: c.Name}), nil
	case parley.StoreUser:
		return f.createUser(r.As, c), nil
	case parley.DeleteUser:
		return f.deleteUser(c), nil
	case parley.Send:
		return f.send(c), nil
	case parley.Ack:
		return f.ack(c), nil
	case parley.OpenSession:
		if len(f.sessions) >= f.limits.Sessions {
			return refuse(parley.CodeTooManySessions, "the limit is %d sessions", f.limits.Sessions), nil
		}
		id := parley.SessionID(f.log)
		f.sessions[id] = &session{replies: make(map[uint64]parley.Result), owner: owner(r.As)}
		return parley.Result{Session: id}, nil
	case parley.CloseSession:
		if s := f.sessions[c.Session]; s == nil || s.owner != owner(r.As) {
			return refuse(parley.CodeSessionExpired, "session %d is not open", c.Session), nil
		}
		delete(f.sessions, c.Session)
		return parley.Result{}, nil
	}
	return f.applyAccount(r.Command)
}

func (f *Fake) createUser(as *parley.Actor, c parley.StoreUser) parley.Result {
	key, shown, err := fold(c.Name)
	if err != nil {
		return refuse(parley.CodeBadName, "%v", err)
	}
	if m := f.users[key]; m != nil {
		return refuse(parley.CodeNameTaken, "a user is named %q", m.name)
	}
	if len(f.users) >= f.limits.Users {
		return refuse(parley.CodeTooManyUsers, "the limit is %d users", f.limits.Users)
	}
	l, refusal := f.register(as, c.Verifier, c.Invite)
	if refusal.Code != parley.CodeOK {
		return refusal
	}
	f.revision++
	m := &mailbox{name: shown, born: parley.Incarnation(f.log), login: l, changed: make(chan struct{})}
	f.users[key] = m
	return parley.Result{Incarnation: m.born}
}

// find returns the key and mailbox of a user, nil if there is none. mu is held.
func (f *Fake) find(name string) (string, *mailbox) {
	key, _, err := fold(name)
	if err != nil {
		return "", nil
	}
	return key, f.users[key]
}

func (f *Fake) deleteUser(c parley.DeleteUser) parley.Result {
	key, m := f.find(c.Name)
	if m == nil {
		return noSuchUser(c.Name)
	}
	f.revision++
	delete(f.users, key)
	close(m.changed)
	return parley.Result{}
}

func (f *Fake) send(c parley.Send) parley.Result {
	if !utf8.ValidString(c.Body) || !utf8.ValidString(c.From) {
		return refuse(parley.CodeBadText, "the text is not valid UTF-8")
	}
	if len(c.Body) > f.limits.BodyBytes {
		return refuse(parley.CodeBodyTooLarge, "the text has %d bytes, the limit is %d", len(c.Body), f.limits.BodyBytes)
	}
	_, m := f.find(c.To)
	switch {
	case m == nil:
		return noSuchUser(c.To)
	case len(m.unread) >= f.limits.MailboxMessages:
		return refuse(parley.CodeMailboxFull, "%q has %d unread messages, the limit is %d", m.name, len(m.unread), f.limits.MailboxMessages)
	case m.bytes+len(c.Body) > f.limits.MailboxBytes:
		return refuse(parley.CodeMailboxFull, "%q has %d bytes of unread mail, the limit is %d", m.name, m.bytes, f.limits.MailboxBytes)
	}
	m.sent++
	msg := parley.Message{
		Cursor: parley.Cursor{Incarnation: m.born, ID: m.sent},
		From:   c.From, Body: c.Body, Time: f.stamp,
	}
	m.unread = append(m.unread, msg)
	m.recent = append(m.recent[max(0, len(m.recent)-maxRecent+1):], msg)
	m.bytes += len(c.Body)
	close(m.changed)
	m.changed = make(chan struct{})
	return parley.Result{Message: m.sent}
}

func (f *Fake) ack(c parley.Ack) parley.Result {
	_, m := f.find(c.User)
	if m == nil {
		return noSuchUser(c.User)
	}
	if c.UpTo.Incarnation != 0 && c.UpTo.Incarnation != m.born {
		return parley.Result{}
	}
	upTo := min(c.UpTo.ID, m.sent)
	if upTo <= m.cursor {
		return parley.Result{}
	}
	n := int(upTo - m.cursor)
	for _, msg := range m.unread[:n] {
		m.bytes -= len(msg.Body)
	}
	clear(m.unread[:n])
	m.unread = m.unread[n:]
	m.cursor = upTo
	return parley.Result{}
}
