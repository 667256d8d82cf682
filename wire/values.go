package wire

import (
	"encoding/binary"

	"github.com/parley-chat/parley"
)

// The numbers of the commands and queries in frames.
const (
	cmdCreateUser   = 1
	cmdDeleteUser   = 2
	cmdSend         = 3
	cmdAck          = 4
	cmdOpenSession  = 5
	cmdCloseSession = 6

	queryUsers  = 1
	queryInbox  = 2
	queryStatus = 3
)

// The bits that say which fields of a Result are there, in this order.
const (
	hasDetail = 1 << iota
	hasSession
	hasIncarnation
	hasMessage
	hasNames
	hasMore // has no bytes of its own
	hasMessages
	hasCursor
	hasUnread
	hasMembers
	hasPolicy
	hasTokens
	hasInvites
	hasUnknown // this bit and all above it
)

// The fewest bytes that an item of a list takes.
const (
	minName    = 1
	minMessage = 5
	minMember  = 8
)

func appendRequest(b []byte, r *parley.Request) ([]byte, bool) {
	b = binary.AppendUvarint(b, uint64(r.Session))
	b = binary.AppendUvarint(b, r.Seq)
	b = binary.AppendUvarint(b, r.Answered)
	if r.As != nil {
		b = appendActor(append(b, cmdAs), r.As)
	}
	switch c := r.Command.(type) {
	case parley.Send:
		return appendRaw(appendRaw(appendRaw(append(b, cmdSend), c.From), c.To), c.Body), true
	case parley.Ack:
		return appendCursor(appendRaw(append(b, cmdAck), c.User), c.UpTo), true
	case parley.CreateUser:
		if c.Password != "" || c.Invite != "" {
			return appendAccountCommand(b, c)
		}
		return appendRaw(append(b, cmdCreateUser), c.Name), true
	case parley.DeleteUser:
		return appendRaw(append(b, cmdDeleteUser), c.Name), true
	case parley.OpenSession:
		return append(b, cmdOpenSession), true
	case parley.CloseSession:
		return binary.AppendUvarint(append(b, cmdCloseSession), uint64(c.Session)), true
	}
	return appendAccountCommand(b, r.Command)
}

func (d *fields) request(r *parley.Request) bool {
	r.Session, r.Seq, r.Answered = parley.SessionID(d.uvarint()), d.uvarint(), d.uvarint()
	r.As = nil
	number := d.byte()
	if number == cmdAs {
		r.As = d.actor()
		number = d.byte()
	}
	switch number {
	case cmdSend:
		r.Command = d.send()
	case cmdAck:
		r.Command = parley.Ack{User: d.raw(), UpTo: d.cursor()}
	case cmdCreateUser:
		r.Command = parley.CreateUser{Name: d.raw()}
	case cmdDeleteUser:
		r.Command = parley.DeleteUser{Name: d.raw()}
	case cmdOpenSession:
		r.Command = parley.OpenSession{}
	case cmdCloseSession:
		r.Command = parley.CloseSession{Session: parley.SessionID(d.uvarint())}
	default:
		return d.accountCommand(number, r)
	}
	return true
}

// send takes the three strings of a Send with one allocation for all of them.
func (d *fields) send() parley.Send {
	all := d.b
	from, to, body := d.slice(), d.slice(), d.slice()
	if d.bad != "" {
		return parley.Send{}
	}
	s := string(all[:len(all)-len(d.b)])
	end := len(s) - len(body)
	c := parley.Send{Body: s[end:]}
	end -= uvarintLen(len(body))
	c.To = s[end-len(to) : end]
	end -= len(to) + uvarintLen(len(to))
	c.From = s[end-len(from) : end]
	return c
}

func uvarintLen(n int) int {
	l := 1
	for ; n >= 0x80; n >>= 7 {
		l++
	}
	return l
}

func appendQuery(b []byte, q parley.Query) ([]byte, bool) {
	switch q := q.(type) {
	case parley.Users:
		b = appendRaw(appendRaw(append(b, queryUsers), q.Pattern), q.After)
		return binary.AppendVarint(b, int64(q.Limit)), true
	case parley.Inbox:
		b = appendCursor(appendRaw(append(b, queryInbox), q.User), q.After)
		return binary.AppendVarint(b, int64(q.Limit)), true
	case parley.Status:
		return append(b, queryStatus), true
	case parley.GetPolicy:
		return append(b, queryPolicy), true
	case parley.Tokens:
		return appendRaw(append(b, queryTokens), q.User), true
	case parley.Invites:
		return binary.AppendUvarint(append(b, queryInvites), uint64(q.After)), true
	}
	return b, false
}

func (d *fields) query() (parley.Query, bool) {
	switch d.byte() {
	case queryUsers:
		return parley.Users{Pattern: d.raw(), After: d.raw(), Limit: d.int()}, true
	case queryInbox:
		return parley.Inbox{User: d.raw(), After: d.cursor(), Limit: d.int()}, true
	case queryStatus:
		return parley.Status{}, true
	case queryPolicy:
		return parley.GetPolicy{}, true
	case queryTokens:
		return parley.Tokens{User: d.raw()}, true
	case queryInvites:
		return parley.Invites{After: parley.TokenID(d.uvarint())}, true
	}
	return nil, false
}

// resultHas returns the bits of r.
func resultHas(r *parley.Result) uint64 {
	var has uint64
	set := func(bit uint64, on bool) {
		if on {
			has |= bit
		}
	}
	set(hasDetail, r.Detail != "")
	set(hasSession, r.Session != 0)
	set(hasIncarnation, r.Incarnation != 0)
	set(hasMessage, r.Message != 0)
	set(hasNames, len(r.Names) > 0)
	set(hasMore, r.More)
	set(hasMessages, len(r.Messages) > 0)
	set(hasCursor, r.Cursor != parley.Cursor{})
	set(hasUnread, r.Unread != 0)
	set(hasMembers, len(r.Members) > 0)
	set(hasPolicy, r.Policy != nil)
	set(hasTokens, len(r.Tokens) > 0)
	set(hasInvites, len(r.Invites) > 0)
	return has
}

func appendResult(b []byte, r *parley.Result) []byte {
	has := resultHas(r)
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(r.Code)), has)
	if has&hasDetail != 0 {
		b = appendText(b, r.Detail)
	}
	if has&hasSession != 0 {
		b = binary.AppendUvarint(b, uint64(r.Session))
	}
	if has&hasIncarnation != 0 {
		b = binary.AppendUvarint(b, uint64(r.Incarnation))
	}
	if has&hasMessage != 0 {
		b = binary.AppendUvarint(b, uint64(r.Message))
	}
	if has&hasNames != 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Names)))
		for _, n := range r.Names {
			b = appendText(b, n)
		}
	}
	if has&hasMessages != 0 {
		b = appendMessages(b, r.Messages)
	}
	if has&hasCursor != 0 {
		b = appendCursor(b, r.Cursor)
	}
	if has&hasUnread != 0 {
		b = binary.AppendUvarint(b, r.Unread)
	}
	if has&hasMembers != 0 {
		b = appendMembers(b, r.Members)
	}
	if has >= hasPolicy {
		b = appendAccountResult(b, has, r)
	}
	return b
}

func (d *fields) result(r *parley.Result) {
	r.Code = d.code()
	has := d.uvarint()
	if has >= hasUnknown {
		d.fail("a result with unknown fields")
	}
	if has&hasDetail != 0 {
		r.Detail = d.text()
	}
	if has&hasSession != 0 {
		r.Session = parley.SessionID(d.uvarint())
	}
	if has&hasIncarnation != 0 {
		r.Incarnation = parley.Incarnation(d.uvarint())
	}
	if has&hasMessage != 0 {
		r.Message = parley.MessageID(d.uvarint())
	}
	if has&hasNames != 0 {
		r.Names = d.names()
	}
	r.More = has&hasMore != 0
	if has&hasMessages != 0 {
		r.Messages = d.messages()
	}
	if has&hasCursor != 0 {
		r.Cursor = d.cursor()
	}
	if has&hasUnread != 0 {
		r.Unread = d.uvarint()
	}
	if has&hasMembers != 0 {
		r.Members = d.members()
	}
	if has >= hasPolicy {
		d.accountResult(has, r)
	}
	if d.bad == "" && resultHas(r) != has {
		d.fail("a result with an empty field")
	}
}

func (d *fields) code() parley.Code {
	c := d.uvarint()
	if c > 0xFFFF {
		d.fail("a code beyond 65535")
	}
	return parley.Code(c)
}

func (d *fields) names() []string {
	n := d.count(minName)
	if n == 0 {
		return nil
	}
	names := make([]string, n)
	for i := range names {
		names[i] = d.text()
	}
	return names
}

func appendMessages(b []byte, ms []parley.Message) []byte {
	b = binary.AppendUvarint(b, uint64(len(ms)))
	for i := range ms {
		m := &ms[i]
		b = appendTime(appendCursor(b, m.Cursor), m.Time)
		b = appendText(appendText(b, m.From), m.Body)
	}
	return b
}

func (d *fields) messages() []parley.Message {
	n := d.count(minMessage)
	if n == 0 {
		return nil
	}
	ms := make([]parley.Message, n)
	for i := range ms {
		m := &ms[i]
		m.Cursor, m.Time = d.cursor(), d.time()
		all := d.b
		from, body := d.valid(d.slice()), d.valid(d.slice())
		if d.bad != "" {
			return nil
		}
		s := string(all[:len(all)-len(d.b)]) // one allocation for both
		m.Body = s[len(s)-len(body):]
		end := len(s) - len(body) - uvarintLen(len(body))
		m.From = s[end-len(from) : end]
	}
	return ms
}

func appendMembers(b []byte, ms []parley.Member) []byte {
	b = binary.AppendUvarint(b, uint64(len(ms)))
	for i := range ms {
		m := &ms[i]
		for _, s := range [...]string{m.ID, m.Server, string(m.Role), m.Client, m.Peer} {
			b = appendText(b, s)
		}
		b = binary.AppendUvarint(binary.AppendUvarint(b, m.Term), m.Applied)
		b = appendBool(b, m.Reachable)
	}
	return b
}

func (d *fields) members() []parley.Member {
	n := d.count(minMember)
	if n == 0 {
		return nil
	}
	ms := make([]parley.Member, n)
	for i := range ms {
		ms[i] = parley.Member{
			ID: d.text(), Server: d.text(), Role: parley.Role(d.text()), Client: d.text(), Peer: d.text(),
			Term: d.uvarint(), Applied: d.uvarint(), Reachable: d.bool(),
		}
	}
	return ms
}

func appendErr(b []byte, e *parley.Error) []byte {
	return appendText(appendText(binary.AppendUvarint(b, uint64(e.Code)), e.Detail), e.Leader)
}

func (d *fields) err() *parley.Error {
	return &parley.Error{Code: d.code(), Detail: d.text(), Leader: d.text()}
}
