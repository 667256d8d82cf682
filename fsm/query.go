package fsm

import (
	"errors"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley"
)

// Bounds on one page, so that any result fits a frame.
const (
	pageMessages = 256
	pageBytes    = 64 << 10
)

// begin begins a read transaction on the checkpoint, and lets look copy what it
// needs of the memory over it, at one instant. Generations that are not active
// need no copying.
//
// The lock is not held while the transaction begins, for which bbolt may need
// some time when a checkpoint begins, and commands would have to wait. So a
// checkpoint can get in between: then it begins again.
func (f *FSM) begin(look func(*state)) (*bbolt.Tx, error) {
	for {
		f.mu.RLock()
		db, stored, err := f.st.db, f.st.stored(), f.usable()
		f.mu.RUnlock()
		if err != nil {
			return nil, err
		}
		tx, err := beginReading(db)
		f.mu.RLock()
		same := f.st.db == db && f.st.stored() == stored
		if err == nil {
			err = f.usable()
		}
		if same && err == nil {
			look(f.st)
			f.mu.RUnlock()
			return tx, nil
		}
		f.mu.RUnlock()
		if tx != nil {
			err = errors.Join(err, guard(tx.Rollback))
		}
		if same {
			return nil, err
		}
	}
}

func beginReading(db *bbolt.DB) (tx *bbolt.Tx, err error) {
	err = guard(func() error {
		tx, err = db.Begin(false)
		return err
	})
	return tx, err
}

// ask answers a question from a transaction that it ends. Errors of the storage
// are fatal.
func (f *FSM) ask(look func(*state), read func(*bbolt.Tx) (parley.Result, error)) (r parley.Result) {
	tx, err := f.begin(look)
	if err == nil {
		err = guard(func() error {
			defer tx.Rollback()
			r, err = read(tx)
			return err
		})
	}
	if err != nil {
		f.fail(err) // no effect if it has failed already
		return parley.Result{Code: parley.CodeShuttingDown, Detail: err.Error()}
	}
	return r
}

// Inbox answers the query. A code from 100 on means that there is no answer.
// A cursor of a former incarnation is answered CodeNoSuchUser.
func (f *FSM) Inbox(q parley.Inbox) parley.Result {
	name, _, rep := foldName(q.User, parley.CodeNoSuchUser)
	if rep.code != parley.CodeOK {
		return rep.result()
	}
	m := mailbox{after: q.After, limit: pageMessages}
	switch {
	case q.Limit < 0:
		m.limit = 0
	case q.Limit > 0:
		m.limit = min(q.Limit, pageMessages)
	}
	return f.ask(func(st *state) { m.look(st, name) }, m.read)
}

// mailbox is a mailbox at one instant.
type mailbox struct {
	after parley.Cursor
	limit int

	known bool // there is such a user
	user
	page   []uint64 // positions of the messages that one page can have
	stored []uint64 // those of them, the first ones, that are not in the active generation
	recent [][]byte // the others, copied, as far as there can be room for them
	older  *generation
}

// skip is how many unread messages are before those asked for.
func (m *mailbox) skip() uint64 { return max(m.cursor, uint64(m.after.ID)) - m.cursor }

// look copies what the memory has of the mailbox, as far as one page can need it.
func (m *mailbox) look(st *state, name string) {
	a := st.directory.get(name)
	if a == nil {
		return
	}
	m.known, m.user, m.older = true, a.user, st.older
	if m.skip() >= m.unread() {
		return
	}
	skip := int(m.skip())
	for i := skip; i < min(skip+m.limit, st.directory.waiting(a)); i++ {
		m.page = append(m.page, st.directory.position(a, i))
	}
	first, _ := slices.BinarySearch(m.page, st.active.from)
	var copied []byte
	for _, pos := range m.page[first:] {
		if len(copied) > pageBytes+pageMessages*(4+maxHead) {
			break
		}
		from := len(copied)
		copied = append(copied, st.active.mail.find(pos)...)
		m.recent = append(m.recent, copied[from:])
	}
	m.stored = m.page[:first]
}

// read makes the page, with what is not in memory from the checkpoint.
func (m *mailbox) read(tx *bbolt.Tx) (parley.Result, error) {
	if !m.known || (m.after.Incarnation != 0 && m.after.Incarnation != m.incarnation) {
		return parley.Result{Code: parley.CodeNoSuchUser}, nil
	}
	r := parley.Result{
		Cursor: parley.Cursor{Incarnation: m.incarnation, ID: parley.MessageID(m.cursor)},
		Unread: m.unread(),
	}
	size := 0
	mail := tx.Bucket(bucketMail.name).Cursor()
	for i := range m.page {
		h, text, err := m.message(mail, i)
		if err != nil {
			return parley.Result{}, err
		}
		if size += len(text); size > pageBytes && i > 0 {
			break
		}
		msg := message{h, string(text)}
		r.Messages = append(r.Messages, msg.public())
	}
	r.More = m.skip()+uint64(len(r.Messages)) < m.unread()
	return r, nil
}

// message finds the i-th message of the page. The text is not a copy.
func (m *mailbox) message(mail *bbolt.Cursor, i int) (h head, text []byte, err error) {
	if i >= len(m.stored) {
		return openRecent(m.recent[i-len(m.stored)])
	}
	if pos := m.page[i]; pos >= m.older.from {
		return openRecent(m.older.mail.find(pos)) // without the lock: it does not change any more
	}
	return txMessage(mail, m.page[i])
}
