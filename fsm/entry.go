package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
	"unicode/utf8"

	"github.com/parley-chat/parley"
)

// An entry is
//
//	version u8 | crc32c u32 | stamp i64, ns since 1970 | commands u16 | commands
//
// big-endian; the checksum covers everything but itself. The format is private
// to this package: other nodes of the same cluster read it, nothing else does.
const (
	entryVersion = 1
	entryHeader  = 15
)

// maxText is the most bytes in any text of an entry.
const maxText = 1 << 20

// MaxOps is the most commands in one entry.
const MaxOps = 1<<16 - 1

// ErrEntry is in the chain of every error about an entry that cannot be applied.
var ErrEntry = errors.New("log entry is damaged or of an unknown version")

// Batch collects commands for one log entry. It is reusable: the memory is kept
// by Reset. Not safe for concurrent use.
type Batch struct {
	buf []byte // header and commands
	n   int
}

// Add appends a command. A command that can be refused without looking at the
// state (a name that nobody can have, a text that is not UTF-8) is answered and
// not added, unless it belongs to a session: then the refusal is added, because
// it takes its place in the session's order and must be the same when the
// command is sent again. A malformed request is answered with a code from
// [parley.CodeBadRequest] on.
func (b *Batch) Add(r parley.Request) (answer parley.Result, answered bool) {
	o := op{session: r.Session, seq: r.Seq, answered: r.Answered}
	if rep := o.fill(r); rep.code != parley.CodeOK {
		if o.session == 0 || !rep.code.IsAnswer() {
			return rep.result(), true
		}
		o.kind, o.code, o.note = opRefuse, rep.code, rep.note
	}
	if b.n == MaxOps {
		return parley.Result{Code: parley.CodeOverloaded, Detail: "the entry is full"}, true
	}
	b.add(&o)
	return parley.Result{}, false
}

// fill sets the op's kind and fields, or says why the request is refused.
func (o *op) fill(r parley.Request) reply {
	if (r.Session == 0) != (r.Seq == 0) || (r.Seq > 0 && r.Answered >= r.Seq) {
		return reply{code: parley.CodeBadRequest, note: noteNumbers}
	}
	if rep := o.as.fill(r.As); rep.code != parley.CodeOK {
		return rep
	}
	switch c := r.Command.(type) {
	case parley.CreateUser:
		if c.Password != "" || c.Invite != "" { // it must never be in the log
			return reply{code: parley.CodeBadRequest, note: noteVerifier}
		}
		o.kind = opCreate
		var rep reply
		o.name, o.shown, rep = foldName(c.Name, parley.CodeBadName)
		return rep
	case parley.DeleteUser:
		return o.fillUser(opDelete, c.Name)
	case parley.Send:
		if rep := checkTexts(c); rep.code != parley.CodeOK {
			return rep
		}
		o.shown, o.from, o.text = c.From, len(c.From), c.Body
		if !plain(c.From) && r.As == nil {
			if key, _, err := Fold(c.From); err == nil {
				o.sender = key
				return o.fillUser(opSendNamed, c.To)
			}
		}
		return o.fillUser(opSend, c.To)
	case parley.Ack:
		o.incarnation, o.id = c.UpTo.Incarnation, c.UpTo.ID
		return o.fillUser(opAck, c.User)
	case parley.OpenSession:
		o.kind = opOpenSession
	case parley.CloseSession:
		o.kind, o.target = opCloseSession, c.Session
	default:
		return o.fillAccount(c)
	}
	if r.Session != 0 {
		return reply{code: parley.CodeBadRequest, note: noteNumbers}
	}
	return reply{}
}

func (o *op) fillUser(kind opKind, name string) (rep reply) {
	o.kind = kind
	o.name, _, rep = foldName(name, parley.CodeNoSuchUser)
	return rep
}

func foldName(name string, code parley.Code) (key, shown string, rep reply) {
	key, shown, err := Fold(name)
	if err != nil {
		rep = reply{code: code, note: nameNote(err)}
	}
	return key, shown, rep
}

func checkTexts(c parley.Send) reply {
	switch {
	case len(c.Body) > maxText:
		return reply{code: parley.CodeBodyTooLarge, note: noteBody, value: maxText, size: clip(len(c.Body))}
	case len(c.From) > maxName:
		return reply{code: parley.CodeBadText, note: noteFromLong}
	case !utf8.ValidString(c.From) || !utf8.ValidString(c.Body):
		return reply{code: parley.CodeBadText, note: noteNotUTF8}
	}
	return reply{}
}

// maxMember is the most bytes in an ID or address of a member.
const maxMember = 255

// AddSetMember records a member's addresses: ID, Server, Client and Peer. If one
// is longer than 255 bytes, or there is no ID, the command's result is
// CodeBadRequest.
func (b *Batch) AddSetMember(m parley.Member) {
	if m.ID == "" || max(len(m.ID), len(m.Server), len(m.Client), len(m.Peer)) > maxMember {
		b.add(&op{kind: opRefuse, code: parley.CodeBadRequest})
		return
	}
	b.add(&op{kind: opSetMember, member: &m})
}

// AddRemoveMember forgets the member of that ID.
func (b *Batch) AddRemoveMember(id string) {
	b.add(&op{kind: opRemoveMember, shown: id[:min(len(id), maxMember)]})
}

// AddSetLimits replaces the limits.
func (b *Batch) AddSetLimits(l Limits) {
	l = l.WithDefaults() // here, so that no node's own defaults matter later
	b.add(&op{kind: opSetLimits, limits: &l})
}

// AddExpireSessions closes the sessions that have not been used for longer than idle.
func (b *Batch) AddExpireSessions(idle time.Duration) {
	b.add(&op{kind: opExpireSessions, idle: max(idle, 0)})
}

func (b *Batch) add(o *op) {
	if len(b.buf) == 0 {
		b.buf = append(b.buf, make([]byte, entryHeader)...)
	}
	b.buf = o.append(b.buf)
	b.n++
}

// Len is the number of commands added. At MaxOps, Add answers CodeOverloaded.
func (b *Batch) Len() int { return b.n }

// Size is the length of the entry in bytes as it stands.
func (b *Batch) Size() int { return max(len(b.buf), entryHeader) }

// Encode returns the entry, stamped with the time. The bytes are valid until the
// next call of a method. An empty batch makes a valid entry.
func (b *Batch) Encode(stamp time.Time) []byte {
	if len(b.buf) == 0 {
		b.buf = append(b.buf, make([]byte, entryHeader)...)
	}
	b.buf[0] = entryVersion
	binary.BigEndian.PutUint64(b.buf[5:], uint64(stamp.UnixNano()))
	binary.BigEndian.PutUint16(b.buf[13:], uint16(b.n))
	binary.BigEndian.PutUint32(b.buf[1:], entrySum(b.buf))
	return b.buf
}

// Reset empties the batch.
func (b *Batch) Reset() { b.buf, b.n = b.buf[:0], 0 }

func entrySum(entry []byte) uint32 {
	return crc32.Update(crc32.Checksum(entry[:1], castagnoli), castagnoli, entry[5:])
}

// CheckEntry verifies an entry's version and checksum.
func CheckEntry(entry []byte) error {
	switch {
	case len(entry) < entryHeader:
		return fmt.Errorf("%w: %d bytes", ErrEntry, len(entry))
	case entry[0] != entryVersion:
		return fmt.Errorf("%w: version %d, this program knows %d", ErrEntry, entry[0], entryVersion)
	case binary.BigEndian.Uint32(entry[1:]) != entrySum(entry):
		return fmt.Errorf("%w: checksum does not match", ErrEntry)
	}
	return nil
}

// decodeEntry appends the entry's commands to ops. They share one copy of the
// entry. Nothing may be applied if there is an error.
func decodeEntry(entry []byte, index uint64, ops []op) (stamp int64, _ []op, err error) {
	if err := CheckEntry(entry); err != nil {
		return 0, ops, err
	}
	stamp = int64(binary.BigEndian.Uint64(entry[5:]))
	n := int(binary.BigEndian.Uint16(entry[13:]))
	r := reader{s: string(entry[entryHeader:])}
	for i := range n {
		ops = append(ops, op{})
		o := &ops[len(ops)-1]
		known := o.read(&r)
		o.pos = position(index, i)
		switch {
		case r.bad:
			return 0, ops, fmt.Errorf("%w: command %d is malformed", ErrEntry, i)
		case !known:
			return 0, ops, fmt.Errorf("%w: command %d is of unknown kind %d", ErrEntry, i, o.kind)
		}
	}
	if !r.done() {
		return 0, ops, fmt.Errorf("%w: %d bytes after the last command", ErrEntry, len(r.s))
	}
	return stamp, ops, nil
}

// clip is n as far as a reply can say it.
func clip(n int) uint32 { return uint32(min(n, 1<<32-1)) }
