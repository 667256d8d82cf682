package fsm

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/parley-chat/parley"
)

// A bucket of the checkpoint. Every value in it begins with a CRC32C over the
// bucket's name, the key and the rest of the value, verified on each read.
type bucket struct {
	name []byte
	seed uint32 // checksum of the name
}

func newBucket(name string) bucket {
	return bucket{[]byte(name), crc32.Checksum([]byte(name), castagnoli)}
}

// The buckets: accounts by accountKey and inviteKey, users by folded name, mail by mailKey, sessions by big-endian id,
// members by ID, meta by the keys below.
var (
	bucketAccounts = newBucket("accounts")
	bucketUsers    = newBucket("users")
	bucketMail     = newBucket("mail")
	bucketSessions = newBucket("sessions")
	bucketMembers  = newBucket("members")
	bucketMeta     = newBucket("meta")
	buckets        = []bucket{bucketAccounts, bucketMail, bucketMembers, bucketMeta, bucketSessions, bucketUsers} // sorted
)

// Keys of the meta bucket.
var (
	keyFormat = []byte("format") // version of everything in the file
	keyLimits = []byte("limits")
	keyRaft   = []byte("raft")   // what Raft must know: see raftMeta
	keyState  = []byte("state")  // time and counts
	keyPolicy = []byte("policy") // see policyMeta
)

const formatVersion = 3

// seal puts the checksum into the first four bytes of value.
func (b bucket) seal(key, value []byte) []byte {
	binary.BigEndian.PutUint32(value, b.sum(key, value[4:]))
	return value
}

// open verifies a value and returns it without the checksum.
func (b bucket) open(key, value []byte) ([]byte, error) {
	if len(value) < 4 || binary.BigEndian.Uint32(value) != b.sum(key, value[4:]) {
		return nil, damaged("bucket %s, key %x: the checksum does not match", b.name, key)
	}
	return value[4:], nil
}

func (b bucket) sum(key, payload []byte) uint32 {
	return crc32.Update(crc32.Update(b.seed, castagnoli, key), castagnoli, payload)
}

// malformed is the error for a value whose checksum is right and whose contents
// are not.
func (b bucket) malformed(key []byte) error {
	return damaged("bucket %s, key %x: the value is malformed", b.name, key)
}

// user is a user's record. What is stored of it is what does not follow from the
// unread mail: last and sent are those of the newest unread message, or those of
// the cursor when all is acknowledged. So mail that comes does not change a stored
// record.
type user struct {
	incarnation parley.Incarnation
	last        uint64 // id of the newest message ever
	cursor      uint64 // messages up to it are acknowledged
	sent        uint64 // bytes of all messages ever
	acked       uint64 // bytes of all messages up to the cursor
}

func (u *user) unread() uint64 { return u.last - u.cursor }

func (u *user) append(dst []byte, shown string) []byte {
	for _, v := range [...]uint64{uint64(u.incarnation), u.cursor, u.acked} {
		dst = binary.AppendUvarint(dst, v)
	}
	return append(dst, shown...)
}

// readUser reads a user's record, as if it had no unread mail, and but for the
// name, which it returns.
func readUser(payload []byte) (u user, shown []byte, ok bool) {
	var numbers [3]uint64
	for i := range numbers {
		v, n := uvarint(payload)
		if n == 0 {
			return user{}, nil, false
		}
		numbers[i], payload = v, payload[n:]
	}
	u.incarnation, u.cursor, u.acked = parley.Incarnation(numbers[0]), numbers[1], numbers[2]
	u.last, u.sent = u.cursor, u.acked
	return u, payload, u.incarnation > 0
}

// mailKey appends the key of a message: its position in the log. So a checkpoint
// appends what has come, whoever it is for.
func mailKey(dst []byte, pos uint64) []byte { return binary.BigEndian.AppendUint64(dst, pos) }

// session is an open session. Replies are those after answered.
type session struct {
	id       parley.SessionID
	answered uint64
	used     int64  // state time of the last command
	user     uint64 // whose it is: see actor.owner
	owner    uint64 // number of the generation that may change it; older ones only read
	replies  queue[reply]
}

// last is the highest number applied.
func (s *session) last() uint64 { return s.answered + uint64(s.replies.len()) }

func sessionKey(id parley.SessionID) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(id))
}

func (s *session) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, s.answered)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.used))
	dst = binary.AppendUvarint(dst, uint64(s.replies.len()))
	for i := range s.replies.len() {
		p := s.replies.at(i)
		dst = binary.AppendUvarint(dst, uint64(p.code))
		dst = append(dst, byte(p.note))
		dst = binary.AppendUvarint(dst, p.value)
		dst = binary.AppendUvarint(dst, uint64(p.size))
	}
	return binary.AppendUvarint(dst, s.user)
}

func readSession(key, payload []byte) (s *session, ok bool) {
	if len(key) != 8 {
		return nil, false
	}
	s = &session{id: parley.SessionID(binary.BigEndian.Uint64(key))}
	r := reader{s: string(payload)}
	s.answered, s.used = r.uvarint(), r.int64()
	for range r.small(window) {
		s.replies.push(reply{
			code: parley.Code(r.small(1<<16 - 1)), note: note(r.byte()),
			value: r.uvarint(), size: uint32(r.small(1<<32 - 1)),
		})
	}
	s.user = r.uvarint()
	return s, r.done()
}

// appendMember appends what is kept of a member, but for its ID.
func appendMember(dst []byte, m parley.Member) []byte {
	return appendString(appendString(appendString(dst, m.Server), m.Client), m.Peer)
}

func readMember(id string, r *reader) parley.Member {
	return parley.Member{ID: id, Server: r.string(maxMember), Client: r.string(maxMember), Peer: r.string(maxMember)}
}

func appendLimits(dst []byte, l Limits) []byte {
	for _, v := range [...]uint64{l.BodyBytes, l.MailboxMessages, l.MailboxBytes, l.Users, l.Sessions, l.Replies} {
		dst = binary.AppendUvarint(dst, v)
	}
	return dst
}

func readLimits(r *reader) Limits {
	return Limits{
		BodyBytes: r.uvarint(), MailboxMessages: r.uvarint(), MailboxBytes: r.uvarint(),
		Users: r.uvarint(), Sessions: r.uvarint(), Replies: r.uvarint(),
	}
}

// raftMeta is what Raft needs to go on from a checkpoint.
type raftMeta struct {
	index, term uint64 // last entry applied
	confIndex   uint64 // entry of the configuration in force
	conf        string // that configuration, as Raft encodes it
}

func (m *raftMeta) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, m.index)
	dst = binary.AppendUvarint(dst, m.term)
	dst = binary.AppendUvarint(dst, m.confIndex)
	return append(dst, m.conf...)
}

func readRaftMeta(payload []byte) (m raftMeta, ok bool) {
	r := reader{s: string(payload)}
	m.index, m.term, m.confIndex = r.uvarint(), r.uvarint(), r.uvarint()
	m.conf = r.bytes(uint64(len(r.s)))
	return m, !r.bad
}

// counts are the small numbers of the state. Those of things that are in the
// other buckets let Open notice that something is missing.
type counts struct {
	now      int64 // state time, ns since 1970: the greatest stamp so far
	users    uint64
	sessions uint64
	members  uint64
	unread   uint64 // messages in all mailboxes
}

func (c *counts) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.now))
	for _, v := range [...]uint64{c.users, c.sessions, c.members, c.unread} {
		dst = binary.AppendUvarint(dst, v)
	}
	return dst
}

func readCounts(payload []byte) (c counts, ok bool) {
	r := reader{s: string(payload)}
	c.now, c.users, c.sessions, c.members, c.unread = r.int64(), r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint()
	return c, r.done()
}
