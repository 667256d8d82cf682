package fsm

import (
	"fmt"

	"github.com/parley-chat/parley"
)

// reply is a command's outcome as the sessions cache it: small, because there
// may be millions. Its text is made on demand.
type reply struct {
	value uint64 // see note
	size  uint32 // see note
	code  parley.Code
	note  note
}

// note says what a reply's numbers mean. It is part of stored sessions and of
// entries: the values are only ever added to.
type note uint8

const (
	noteNone        note = 0
	noteSession     note = 1  // value: the session
	noteIncarnation note = 2  // value: the incarnation
	noteMessage     note = 3  // value: the message
	noteUnread      note = 4  // value: limit of unread messages
	noteBytes       note = 5  // value: limit of unread bytes; size: of the message
	noteBody        note = 6  // value: limit; size: of the body
	noteUsers       note = 7  // value: limit
	noteSessions    note = 8  // value: limit
	noteReplies     note = 9  // value: limit
	noteWindow      note = 10 // value: limit
	noteOrder       note = 11 // value: the last number applied
	noteNameEmpty   note = 12
	noteNameLong    note = 13
	noteNameComma   note = 14
	noteNameChars   note = 15
	noteFromLong    note = 16
	noteNotUTF8     note = 17
	noteNumbers     note = 18
	noteLogin       note = 19
	noteStale       note = 20
	noteNotOwner    note = 21
	noteAdmin       note = 22
	notePassword    note = 23
	noteInvite      note = 24
	noteTokens      note = 25 // value: limit
	noteInvites     note = 26 // value: limit
	noteSender      note = 27
	noteTokenLabel  note = 28
	noteVerifier    note = 29
	noteScope       note = 30
)

func nameNote(err error) note {
	switch err {
	case errNameEmpty:
		return noteNameEmpty
	case errNameLong:
		return noteNameLong
	case errNameComma:
		return noteNameComma
	}
	return noteNameChars
}

// result is the reply as the client sees it.
func (p reply) result() parley.Result {
	r := parley.Result{Code: p.code}
	switch p.note {
	case noteSession:
		r.Session = parley.SessionID(p.value)
	case noteIncarnation:
		r.Incarnation = parley.Incarnation(p.value)
	case noteMessage:
		r.Message = parley.MessageID(p.value)
	default:
		r.Detail = p.detail()
	}
	return r
}

func (p reply) detail() string {
	switch p.note {
	case noteUnread:
		return fmt.Sprintf("the mailbox holds as many unread messages as it may: limit %d", p.value)
	case noteBytes:
		return fmt.Sprintf("the mailbox has no room for another %d bytes of unread mail: limit %d bytes", p.size, p.value)
	case noteBody:
		return fmt.Sprintf("the text has %d bytes: limit %d", p.size, p.value)
	case noteUsers:
		return fmt.Sprintf("there are as many users as there may be: limit %d", p.value)
	case noteSessions:
		return fmt.Sprintf("there are as many open sessions as there may be: limit %d", p.value)
	case noteReplies:
		return fmt.Sprintf("as many replies wait to be confirmed as may, over all sessions: limit %d", p.value)
	case noteWindow:
		return fmt.Sprintf("too many commands of the session wait to be confirmed as answered: limit %d", p.value)
	case noteOrder:
		return fmt.Sprintf("the last command of the session is number %d", p.value)
	case noteNameEmpty:
		return errNameEmpty.Error()
	case noteNameLong:
		return errNameLong.Error()
	case noteNameComma:
		return errNameComma.Error()
	case noteNameChars:
		return errNameChars.Error()
	case noteFromLong:
		return fmt.Sprintf("the sender's name is longer than %d bytes", maxName)
	case noteNotUTF8:
		return "the text is not UTF-8"
	case noteNumbers:
		return "session, sequence number and answered do not fit each other or the command"
	}
	return p.accountDetail()
}

// accountDetail is detail for the notes about accounts.
func (p reply) accountDetail() string {
	switch p.note {
	case noteLogin:
		return "log in first: the cluster requires it, or the user has a password"
	case noteStale:
		return "log in again: the password was changed, the token revoked or expired, or the user deleted"
	case noteNotOwner:
		return "only the user itself, or an administrator, may do this"
	case noteAdmin:
		return "only an administrator may do this"
	case notePassword:
		return "users of this cluster need a password"
	case noteInvite:
		return "the invitation code is missing, unknown, used up or expired"
	case noteTokens:
		return fmt.Sprintf("the user has as many tokens as it may: limit %d; revoke one", p.value)
	case noteInvites:
		return fmt.Sprintf("there are as many invitations as there may be: limit %d; revoke some", p.value)
	case noteSender:
		return "log in first: the sender has a password"
	case noteTokenLabel:
		return fmt.Sprintf("a token's label is UTF-8 of at most %d bytes", maxLabel)
	case noteVerifier:
		return "a password must be hashed before it is replicated"
	case noteScope:
		return "there is no such scope, or mode"
	}
	return ""
}
