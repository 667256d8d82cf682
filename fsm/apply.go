package fsm

import (
	"strings"
	"time"

	"github.com/parley-chat/parley"
)

// window is how many commands of a session may wait for the client to confirm
// their replies.
const window = 4096

// apply changes the state by one command. The outcome depends on the state and
// the command alone. If the storage failed, st.err is set and the reply is void.
func apply(st *state, o *op) reply {
	if o.session == 0 {
		return perform(st, o)
	}
	s := st.ownSession(o.session)
	if s == nil || s.user != o.as.owner() {
		return reply{code: parley.CodeSessionExpired}
	}
	if o.answered >= o.seq {
		return reply{code: parley.CodeBadRequest, note: noteNumbers}
	}
	s.used = st.now
	st.confirm(s, o.answered)
	switch last := s.last(); {
	case o.seq <= s.answered:
		return reply{code: parley.CodeForgotten}
	case o.seq <= last:
		return *s.replies.at(int(o.seq - s.answered - 1))
	case o.seq > last+1:
		return reply{code: parley.CodeOutOfOrder, note: noteOrder, value: last}
	case o.seq > s.answered+window:
		return reply{code: parley.CodeOverloaded, note: noteWindow, value: window}
	case st.replies >= st.limits.Replies:
		return reply{code: parley.CodeOverloaded, note: noteReplies, value: st.limits.Replies}
	}
	p := perform(st, o)
	st.cache(s, p)
	return p
}

// perform does what the command says, if whoever says it may.
func perform(st *state, o *op) reply {
	if p := authorize(st, o); p.code != parley.CodeOK {
		return p
	}
	switch o.kind {
	case opCreate, opStoreUser:
		return create(st, o)
	case opDelete:
		return remove(st, o)
	case opSend, opSendNamed:
		return send(st, o)
	case opAck:
		return ack(st, o)
	case opOpenSession:
		return openSession(st, o)
	case opCloseSession:
		return closeSession(st, o)
	case opRefuse:
		return reply{code: o.code, note: o.note}
	case opSetMember:
		m := *o.member
		m.ID, m.Server = strings.Clone(m.ID), strings.Clone(m.Server)
		m.Client, m.Peer = strings.Clone(m.Client), strings.Clone(m.Peer)
		st.changeMembers()[m.ID] = m
	case opRemoveMember:
		delete(st.changeMembers(), o.shown)
	case opSetLimits:
		st.limits = *o.limits
	case opExpireSessions:
		expire(st, o.idle)
	default:
		return performAccount(st, o)
	}
	return reply{}
}

func create(st *state, o *op) reply {
	switch {
	case st.directory.get(o.name) != nil:
		return reply{code: parley.CodeNameTaken}
	case st.users >= st.limits.Users:
		return reply{code: parley.CodeTooManyUsers, note: noteUsers, value: st.limits.Users}
	}
	if p := st.register(o); p.code != parley.CodeOK {
		return p
	}
	st.addUser(o.name, o.shown, parley.Incarnation(o.pos))
	return reply{note: noteIncarnation, value: o.pos}
}

func remove(st *state, o *op) reply {
	a := st.directory.get(o.name)
	if a == nil {
		return reply{code: parley.CodeNoSuchUser}
	}
	st.events = append(st.events, Event{Kind: EventGone, Key: o.name, Incarnation: a.incarnation})
	st.removeUser(a)
	return reply{}
}

func send(st *state, o *op) reply {
	a := st.directory.get(o.name)
	if a == nil {
		return reply{code: parley.CodeNoSuchUser}
	}
	size, lim := uint64(len(o.text)), &st.limits
	switch body := len(o.text) - o.from; {
	case uint64(body) > lim.BodyBytes:
		return reply{code: parley.CodeBodyTooLarge, note: noteBody, value: lim.BodyBytes, size: clip(body)}
	case a.unread() >= lim.MailboxMessages:
		return reply{code: parley.CodeMailboxFull, note: noteUnread, value: lim.MailboxMessages}
	case a.sent-a.acked+size > lim.MailboxBytes:
		return reply{code: parley.CodeMailboxFull, note: noteBytes, value: lim.MailboxBytes, size: clip(len(o.text))}
	}
	m := st.addMail(a, o.pos, o.from, o.text)
	st.events = append(st.events, Event{Kind: EventMail, Key: o.name, Incarnation: a.incarnation, Message: m.public()})
	return reply{note: noteMessage, value: a.last}
}

func ack(st *state, o *op) reply {
	a := st.directory.get(o.name)
	if a == nil {
		return reply{code: parley.CodeNoSuchUser}
	}
	id := min(uint64(o.id), a.last)
	if (o.incarnation == 0 || o.incarnation == a.incarnation) && id > a.cursor {
		st.dropMail(a, id)
	}
	return reply{}
}

func openSession(st *state, o *op) reply {
	if uint64(len(st.sessions)) >= st.limits.Sessions {
		return reply{code: parley.CodeTooManySessions, note: noteSessions, value: st.limits.Sessions}
	}
	s := &session{id: parley.SessionID(o.pos), used: st.now, user: o.as.owner()}
	st.putSession(s)
	st.owned[s.user]++
	return reply{note: noteSession, value: o.pos}
}

func closeSession(st *state, o *op) reply {
	s := st.sessions[o.target]
	if s == nil || s.user != o.as.owner() {
		return reply{code: parley.CodeSessionExpired}
	}
	st.removeSession(s)
	return reply{}
}

// expire closes the sessions that have been idle for longer than idle. The
// order does not matter, each is judged by itself.
func expire(st *state, idle time.Duration) {
	for _, s := range st.sessions {
		if st.now-s.used > int64(idle) {
			st.removeSession(s)
		}
	}
}

// public is the message as readers see it.
func (m *message) public() parley.Message {
	return parley.Message{
		Cursor: parley.Cursor{Incarnation: m.box, ID: parley.MessageID(m.id)},
		From:   m.text[:m.from],
		Body:   m.text[m.from:],
		Time:   time.Unix(0, m.time).UTC(),
	}
}
