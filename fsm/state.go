package fsm

import (
	"maps"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley"
)

// state is the replicated state: users and sessions in memory, mail in memory as
// far as it came lately, and else in the checkpoint in bbolt. Of each mailbox the
// memory has the positions of its unread messages, which are their keys: one is in
// active, in older or in the checkpoint, as its position says.
//
// The owner's lock guards it. A generation that is not active any more does not
// change, so it may be read without the lock.
type state struct {
	db        *bbolt.DB
	directory *directory
	active    *generation // what changed since older was cut off
	older     *generation // what changed before; it is being stored, or was stored and serves as a cache

	reading *bbolt.Tx // on the checkpoint, while the commands of a batch need it

	// Small enough to be in memory altogether.
	raftMeta
	counts
	limits   Limits
	members  map[string]parley.Member
	sessions map[parley.SessionID]*session
	owned    map[uint64]int // sessions of each owner, for those who ask before they propose one more
	replies  uint64         // cached in all sessions
	policyMeta
	logins   map[string]*login // those looked for lately; see login
	revision *atomic.Uint64    // counts changes of accounts and policy; the owner's

	events []Event // of the commands applied since the owner took them
	err    error   // the storage failed: the state must not be used any more
}

// firstGeneration is the number of the first one over a checkpoint that was opened.
const firstGeneration = 1

// newState puts an empty memory over a checkpoint.
func newState(db *bbolt.DB, c *contents) *state {
	st := &state{
		db: db, directory: c.directory, older: newGeneration(0), active: newGeneration(firstGeneration),
		raftMeta: c.raftMeta, counts: c.counts, limits: c.limits, members: c.members, sessions: c.sessions, owned: make(map[uint64]int),
		policyMeta: c.policyMeta, logins: make(map[string]*login), revision: new(atomic.Uint64),
	}
	st.older.raftMeta, st.older.stored = c.raftMeta, true
	st.older.from, st.active.from = st.next(), st.next()
	for _, s := range st.sessions {
		st.replies += uint64(s.replies.len())
		st.owned[s.user]++
	}
	return st
}

// next is the position of the first command to come.
func (st *state) next() uint64 { return position(st.index+1, 0) }

// cut ends the active generation and returns it, to be stored. The next one is
// given, empty.
func (st *state) cut(next *generation) *generation {
	g := st.active
	st.counts.sessions, st.counts.members = uint64(len(st.sessions)), uint64(len(st.members))
	g.raftMeta, g.counts, g.limits, g.policyMeta = st.raftMeta, st.counts, st.limits, st.policyMeta
	next.from = st.next()
	st.older, st.active = g, next
	return g
}

// stored is the number of the newest generation that is in the checkpoint for certain.
func (st *state) stored() uint64 {
	if st.older.stored {
		return st.older.number
	}
	return st.older.number - 1
}

// unstored is the number of bytes in memory that are in no checkpoint.
func (st *state) unstored() int64 {
	if st.older.stored {
		return st.active.memory()
	}
	return st.active.memory() + st.older.memory()
}

// read looks into the checkpoint.
func (st *state) read(fn func(*bbolt.Tx) error) error {
	return guard(func() (err error) {
		if st.reading == nil {
			if st.reading, err = st.db.Begin(false); err != nil {
				return err
			}
		}
		return fn(st.reading)
	})
}

// endReading ends the transaction that read has begun.
func (st *state) endReading() {
	tx := st.reading
	if tx == nil {
		return
	}
	st.reading = nil
	if err := guard(tx.Rollback); err != nil {
		st.err = err
	}
}

// addUser adds a user. The strings are copied.
func (st *state) addUser(name, shown string, inc parley.Incarnation) {
	a := st.directory.add(name, shown, user{incarnation: inc})
	c := st.active.change(st.directory, a)
	st.active.rename(nameChange{name: c.name, shown: c.shown})
	st.users++
}

// removeUser forgets a user and its mail.
func (st *state) removeUser(a *account) {
	st.forget(a, st.directory.waiting(a))
	c := st.active.change(st.directory, a)
	c.gone = true
	st.dropLogin(c.name)
	st.active.rename(nameChange{name: c.name, gone: true})
	st.directory.remove(a)
	st.users--
}

// addMail appends the message of a command at pos to a mailbox, and returns it.
// What it changes of the user's record follows from the mail that there is, so the
// record need not be stored. The text is copied.
func (st *state) addMail(a *account, pos uint64, from int, text string) message {
	a.last++
	a.sent += uint64(len(text))
	m := message{head{box: a.incarnation, id: a.last, time: st.now, end: a.sent, from: uint8(from)}, text}
	st.active.mail.add(pos, m.head, text)
	st.directory.push(a, pos)
	st.unread++
	return m
}

// dropMail acknowledges a mailbox's messages up to id, which is after the cursor
// and not after the last.
func (st *state) dropMail(a *account, id uint64) {
	n := id - a.cursor
	a.acked, a.cursor = st.endOf(a, id), id
	st.forget(a, int(n))
	st.active.change(st.directory, a)
}

// forget removes the first n messages of a mailbox.
func (st *state) forget(a *account, n int) {
	for i := range n {
		switch pos := st.directory.position(a, i); {
		case pos >= st.active.from:
			st.active.mail.remove(pos)
		default:
			st.active.read = append(st.active.read, pos)
			st.active.bytes += costRead
		}
	}
	st.directory.drop(a, n)
	st.unread -= uint64(n)
}

// endOf is the end of a message that is after the cursor.
func (st *state) endOf(a *account, id uint64) (end uint64) {
	if id == a.last {
		return a.sent
	}
	pos := st.directory.position(a, int(id-a.cursor-1))
	var h head
	var err error
	switch {
	case pos >= st.active.from:
		h, _, err = openRecent(st.active.mail.find(pos))
	case pos >= st.older.from:
		h, _, err = openRecent(st.older.mail.find(pos))
	default:
		err = st.read(func(tx *bbolt.Tx) (err error) {
			h, _, err = txMessage(tx.Bucket(bucketMail.name).Cursor(), pos)
			return err
		})
	}
	if err != nil {
		st.err = err
	}
	return h.end
}

// ownSession finds a session for writing; nil if there is none.
func (st *state) ownSession(id parley.SessionID) *session {
	s := st.sessions[id]
	if s == nil || s.owner == st.active.number {
		return s
	}
	c := &session{id: id, answered: s.answered, used: s.used, user: s.user, replies: s.replies.clone()}
	st.putSession(c)
	return c
}

func (st *state) putSession(s *session) {
	s.owner = st.active.number
	st.sessions[s.id], st.active.sessions[s.id] = s, s
	st.active.bytes += costSession + costReply*int64(s.replies.len())
}

func (st *state) removeSession(s *session) {
	delete(st.sessions, s.id)
	if st.owned[s.user]--; st.owned[s.user] == 0 {
		delete(st.owned, s.user)
	}
	st.active.sessions[s.id] = nil
	st.active.bytes += costName
	st.replies -= uint64(s.replies.len())
}

// confirm forgets an owned session's replies up to answered.
func (st *state) confirm(s *session, answered uint64) {
	if answered <= s.answered {
		return
	}
	n := min(answered-s.answered, uint64(s.replies.len()))
	s.replies.drop(int(n))
	s.answered = answered
	st.replies -= n
	st.active.bytes -= costReply * int64(n)
}

// cache remembers the reply to an owned session's next command.
func (st *state) cache(s *session, p reply) {
	s.replies.push(p)
	st.replies++
	st.active.bytes += costReply
}

// changeMembers returns the members for writing.
func (st *state) changeMembers() map[string]parley.Member {
	if st.active.members == nil {
		st.members = maps.Clone(st.members) // the older generation may still be read
		st.active.members = st.members
	}
	return st.members
}
