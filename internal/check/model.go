package check

import (
	"fmt"
	"slices"

	"github.com/parley-chat/parley"
)

// mailbox is a user and their mail, as the model has it. It is never changed but
// replaced.
type mailbox struct {
	exists bool
	// incarnation is 0 as long as nobody was told: the user was created by a
	// command whose answer is unknown. It is then more than floor.
	incarnation  parley.Incarnation
	floor        parley.Incarnation // the largest that is known of; new ones are larger
	cursor, last parley.MessageID
	mail         []string // bodies from cursor+1 to last
}

func (m mailbox) equal(o mailbox) bool {
	return m.exists == o.exists && m.incarnation == o.incarnation && m.floor == o.floor &&
		m.cursor == o.cursor && m.last == o.last && slices.Equal(m.mail, o.mail)
}

func (m mailbox) String() string {
	if !m.exists {
		return "no user"
	}
	return fmt.Sprintf("incarnation %d, %d to %d unread %q", m.incarnation, m.cursor+1, m.last, m.mail)
}

// created is the mailbox of a new user.
func (m mailbox) created(inc parley.Incarnation) mailbox {
	return mailbox{exists: true, incarnation: inc, floor: max(m.floor, inc)}
}

func (m mailbox) removed() mailbox { return mailbox{floor: m.floor} }

func (m mailbox) with(body string) mailbox {
	m.last++
	m.mail = append(slices.Clip(m.mail), body)
	return m
}

// without is m after an acknowledgement up to id.
func (m mailbox) without(id parley.MessageID) mailbox {
	id = min(id, m.last)
	if id > m.cursor {
		m.mail = m.mail[id-m.cursor:]
		m.cursor = id
	}
	return m
}

// bound are the mailboxes that m may be if it is of incarnation inc.
func (m mailbox) bound(inc parley.Incarnation) (mailbox, bool) {
	switch {
	case m.incarnation == inc:
		return m, true
	case m.incarnation != 0 || inc <= m.floor:
		return m, false
	}
	m.incarnation, m.floor = inc, inc
	return m, true
}

// step returns the mailboxes that there may be after an operation, none if its
// answer cannot be right.
func (m mailbox) step(key string, op *Op) []mailbox {
	if op.state == opAnswered {
		return m.answered(key, op)
	}
	return append(m.effects(op.input), m)
}

// effects are what a command may do to m, when nobody knows what it has done.
func (m mailbox) effects(input any) []mailbox {
	switch in := input.(type) {
	case parley.CreateUser:
		if !m.exists {
			return []mailbox{m.created(0)}
		}
	case parley.DeleteUser:
		return []mailbox{m.removed()}
	case parley.Send:
		if m.exists {
			return []mailbox{m.with(in.Body)}
		}
	case parley.Ack:
		if m.exists {
			return m.acked(in.UpTo)
		}
	}
	return nil
}

// acked are the mailboxes that an acknowledgement may leave.
func (m mailbox) acked(upTo parley.Cursor) []mailbox {
	if upTo.Incarnation == 0 || upTo.Incarnation == m.incarnation {
		return []mailbox{m.without(upTo.ID)}
	}
	next := []mailbox{m} // of another incarnation: no effect
	if m.incarnation == 0 {
		if b, ok := m.bound(upTo.Incarnation); ok {
			next = append(next, b.without(upTo.ID))
		}
	}
	return next
}

func (m mailbox) answered(key string, op *Op) []mailbox {
	ok := op.out.Code == parley.CodeOK
	switch op.input.(type) {
	case parley.Users:
		if slices.Contains(op.out.Names, key) == m.exists {
			return []mailbox{m}
		}
		return nil
	case parley.Inbox:
		return m.shown(op.out)
	case parley.CreateUser:
		switch {
		case ok && !m.exists && op.out.Incarnation > m.floor:
			return []mailbox{m.created(op.out.Incarnation)}
		case op.out.Code == parley.CodeNameTaken && m.exists:
			return []mailbox{m}
		}
		return nil
	case parley.Send:
		if ok && op.out.Message != m.last+1 {
			return nil
		}
	case parley.DeleteUser, parley.Ack:
	default:
		return nil
	}
	switch {
	case ok && m.exists:
		return m.effects(op.input)
	case op.out.Code == parley.CodeNoSuchUser && !m.exists:
		return []mailbox{m}
	}
	return nil
}

// shown is m if an answer to a question for the mailbox shows what is in it.
func (m mailbox) shown(r parley.Result) []mailbox {
	if r.Code == parley.CodeNoSuchUser && !m.exists {
		return []mailbox{m}
	}
	if r.Code != parley.CodeOK || !m.exists {
		return nil
	}
	b, ok := m.bound(r.Cursor.Incarnation)
	if !ok || r.Cursor.ID != m.cursor || r.Unread != uint64(len(m.mail)) || len(r.Messages) > len(m.mail) {
		return nil
	}
	for i, msg := range r.Messages {
		if msg.Cursor != (parley.Cursor{Incarnation: b.incarnation, ID: m.cursor + 1 + parley.MessageID(i)}) || msg.Body != m.mail[i] {
			return nil
		}
	}
	return []mailbox{b}
}
