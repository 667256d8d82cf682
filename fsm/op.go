package fsm

import (
	"encoding/binary"
	"strings"
	"time"

	"github.com/parley-chat/parley"
)

// opKind says what a command in an entry is. The numbers are in every log: they
// are only ever added to.
type opKind uint8

const (
	opCreate         opKind = 1  // name, shown
	opDelete         opKind = 2  // name
	opSend           opKind = 3  // name, from, text
	opAck            opKind = 4  // name, incarnation, id
	opOpenSession    opKind = 5  //
	opCloseSession   opKind = 6  // target
	opRefuse         opKind = 7  // code, note: refused by whoever made the entry, for the session's order
	opSetMember      opKind = 8  // member
	opRemoveMember   opKind = 9  // shown: the member's ID
	opSetLimits      opKind = 10 // limits
	opExpireSessions opKind = 11 // idle
	opAs             opKind = 12 // as, and then the command that is made in that name
	opStoreUser      opKind = 13 // name, shown, account: verifier, invite
	opStorePassword  opKind = 14 // name, account: verifier, was, rehash
	opAddToken       opKind = 15 // name, account: token
	opRevokeToken    opKind = 16 // name, account: id
	opSetPolicy      opKind = 17 // account: policy
	opAddInvite      opKind = 18 // account: invite, uses, expires
	opRevokeInvite   opKind = 19 // account: id
	opSendNamed      opKind = 20 // name, sender, from, text: opSend where the sender's name is not ASCII but may be a user's
)

// op is one command of an entry.
type op struct {
	kind     opKind
	pos      uint64 // its position in the log: see position
	session  parley.SessionID
	seq      uint64
	answered uint64

	name  string // folded name of the user
	shown string // name of the new user as shown; of a message to be encoded, the sender's name
	from  int    // bytes of a message that are the sender's name
	text  string // the message: the sender's name, unless in shown, and the body
	// sender is the folded name of the sender if that is not ASCII, "" if it cannot
	// be a user's.
	sender string

	incarnation parley.Incarnation
	id          parley.MessageID
	target      parley.SessionID
	code        parley.Code
	note        note
	idle        time.Duration
	member      *parley.Member
	limits      *Limits
	as          actor
	account     *accountOp // of the kinds from opStoreUser on
}

// position is the place of a command in the log as one number: it increases
// from command to command and is never 0. Incarnations and session ids are
// such positions, so they are unique without a counter.
func position(index uint64, n int) uint64 { return index<<16 | uint64(n) }

// append appends the op's bytes: who, if it is anybody, kind, session and its
// numbers, fields.
func (o *op) append(dst []byte) []byte {
	if o.as.kind != anybody {
		dst = o.as.append(append(dst, byte(opAs)))
	}
	dst = append(dst, byte(o.kind))
	dst = binary.AppendUvarint(dst, uint64(o.session))
	if o.session != 0 {
		dst = binary.AppendUvarint(dst, o.seq)
		dst = binary.AppendUvarint(dst, o.answered)
	}
	switch o.kind {
	case opCreate:
		dst = appendString(dst, o.name)
		dst = appendString(dst, o.shown)
	case opDelete:
		dst = appendString(dst, o.name)
	case opSend, opSendNamed: // the texts adjacent, so that applying copies them at once
		dst = appendString(dst, o.name)
		if o.kind == opSendNamed {
			dst = appendString(dst, o.sender)
		}
		dst = binary.AppendUvarint(dst, uint64(o.from))
		dst = binary.AppendUvarint(dst, uint64(len(o.shown)+len(o.text)))
		dst = append(append(dst, o.shown...), o.text...)
	case opAck:
		dst = appendString(dst, o.name)
		dst = binary.AppendUvarint(dst, uint64(o.incarnation))
		dst = binary.AppendUvarint(dst, uint64(o.id))
	case opCloseSession:
		dst = binary.AppendUvarint(dst, uint64(o.target))
	case opRefuse:
		dst = binary.AppendUvarint(dst, uint64(o.code))
		dst = append(dst, byte(o.note))
	case opSetMember:
		dst = appendString(dst, o.member.ID)
		dst = appendMember(dst, *o.member)
	case opRemoveMember:
		dst = appendString(dst, o.shown)
	case opSetLimits:
		dst = appendLimits(dst, *o.limits)
	case opExpireSessions:
		dst = binary.AppendUvarint(dst, uint64(o.idle))
	case opStoreUser, opStorePassword, opAddToken, opRevokeToken, opSetPolicy, opAddInvite, opRevokeInvite:
		dst = o.appendAccount(dst)
	}
	return dst
}

// read is append's inverse. It reports false for a kind that this version does
// not know; mistakes are left in r.
func (o *op) read(r *reader) (known bool) {
	*o = op{kind: opKind(r.byte())}
	if o.kind == opAs {
		o.as = readActor(r)
		o.kind = opKind(r.byte())
	}
	o.session = parley.SessionID(r.uvarint())
	if o.session != 0 {
		o.seq, o.answered = r.uvarint(), r.uvarint()
	}
	switch o.kind {
	case opCreate:
		o.name, o.shown = readName(r), r.string(maxName)
	case opDelete:
		o.name = readName(r)
	case opSend, opSendNamed:
		o.name = readName(r)
		if o.kind == opSendNamed {
			o.sender = readName(r)
		}
		o.from = int(r.small(maxName))
		o.text = r.string(maxName + maxText)
		if o.from > len(o.text) {
			r.fail()
		}
	case opAck:
		o.name = readName(r)
		o.incarnation, o.id = parley.Incarnation(r.uvarint()), parley.MessageID(r.uvarint())
	case opOpenSession:
	case opCloseSession:
		o.target = parley.SessionID(r.uvarint())
	case opRefuse:
		o.code, o.note = parley.Code(r.small(1<<16-1)), note(r.byte())
	case opSetMember:
		m := readMember(r.string(maxMember), r)
		if m.ID == "" {
			r.fail()
		}
		o.member = &m
	case opRemoveMember:
		o.shown = r.string(maxMember)
	case opSetLimits:
		l := readLimits(r)
		o.limits = &l
	case opExpireSessions:
		o.idle = time.Duration(r.small(1<<63 - 1))
	case opStoreUser, opStorePassword, opAddToken, opRevokeToken, opSetPolicy, opAddInvite, opRevokeInvite:
		o.readAccount(r)
	default:
		return false
	}
	return true
}

// readName reads a folded name: something that can be a key.
func readName(r *reader) string {
	name := r.string(maxName)
	if name == "" || strings.IndexByte(name, 0) >= 0 {
		r.fail()
	}
	return name
}
