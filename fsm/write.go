package fsm

import (
	"bytes"
	"maps"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley"
)

// write brings the checkpoint up to date with a generation, in one transaction:
// what it says about users, mail, sessions and members, and with it the index
// at which that is so. Keys are written in order. Everything that is deleted is
// addressed by its key: a cursor that walks while its bucket shrinks skips keys.
func (g *generation) write(tx *bbolt.Tx) error {
	w := writer{tx: tx}
	users := tx.Bucket(bucketUsers.name)
	for _, c := range g.byName() {
		if w.key = append(w.key[:0], c.name...); c.gone {
			w.delete(users, w.key)
		} else {
			w.put(users, bucketUsers, w.key, c.user.append(w.value(), c.shown))
		}
	}
	w.mail(tx.Bucket(bucketMail.name), g)
	sessions := tx.Bucket(bucketSessions.name)
	for _, id := range slices.Sorted(maps.Keys(g.sessions)) {
		key := sessionKey(id)
		if s := g.sessions[id]; s != nil {
			w.put(sessions, bucketSessions, key, s.append(w.value()))
		} else {
			w.delete(sessions, key)
		}
	}
	if g.members != nil {
		if err := w.members(g.members); err != nil {
			return err
		}
	}
	w.secrets(g.secrets)
	meta := tx.Bucket(bucketMeta.name)
	w.put(meta, bucketMeta, keyFormat, append(w.value(), formatVersion))
	w.put(meta, bucketMeta, keyLimits, appendLimits(w.value(), g.limits))
	w.put(meta, bucketMeta, keyPolicy, g.policyMeta.append(w.value()))
	w.put(meta, bucketMeta, keyRaft, g.raftMeta.append(w.value()))
	w.put(meta, bucketMeta, keyState, g.counts.append(w.value()))
	return w.err
}

// writer writes to a transaction. Its first error ends it.
type writer struct {
	tx    *bbolt.Tx
	arena []byte // values, which bbolt wants to keep until the commit
	key   []byte
	err   error
}

// value returns room for a value: its checksum, and capacity for the rest.
func (w *writer) value() []byte {
	const chunk, least = 1 << 20, 1 << 10
	if cap(w.arena)-len(w.arena) < least {
		w.arena = make([]byte, 0, chunk)
	}
	n := len(w.arena)
	return append(w.arena[n:n:cap(w.arena)], 0, 0, 0, 0)
}

// put seals and stores a value that was appended to value().
func (w *writer) put(b *bbolt.Bucket, in bucket, key, value []byte) {
	if len(value) <= cap(w.arena)-len(w.arena) { // else it has grown out of the arena
		w.arena = w.arena[:len(w.arena)+len(value)]
		value = value[:len(value):len(value)]
	}
	if w.err == nil {
		w.err = b.Put(key, in.seal(key, value))
	}
}

func (w *writer) delete(b *bbolt.Bucket, key []byte) {
	if w.err == nil {
		w.err = b.Delete(key)
	}
}

// mail removes what is not unread any more, and appends what has come.
func (w *writer) mail(b *bbolt.Bucket, g *generation) {
	slices.Sort(g.read) // nobody else looks at them
	for _, pos := range g.read {
		w.key = mailKey(w.key[:0], pos)
		w.delete(b, w.key)
	}
	b.FillPercent = 1 // nothing will come between
	g.mail.all(func(pos uint64, value []byte) {
		if w.key = mailKey(w.key[:0], pos); w.err == nil {
			w.err = b.Put(w.key, bucketMail.seal(w.key, value))
		}
	})
}

// secrets stores what has changed of the accounts.
func (w *writer) secrets(changed map[string]string) {
	b := w.tx.Bucket(bucketAccounts.name)
	for _, k := range slices.Sorted(maps.Keys(changed)) {
		if payload := changed[k]; payload != "" {
			w.put(b, bucketAccounts, []byte(k), append(w.value(), payload...))
		} else {
			w.delete(b, []byte(k))
		}
	}
}

func (w *writer) members(members map[string]parley.Member) error {
	b := w.tx.Bucket(bucketMembers.name)
	var gone [][]byte
	err := b.ForEach(func(k, _ []byte) error {
		if _, ok := members[string(k)]; !ok {
			gone = append(gone, bytes.Clone(k))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range gone {
		w.delete(b, k)
	}
	for _, id := range slices.Sorted(maps.Keys(members)) {
		key := []byte(id)
		w.put(b, bucketMembers, key, appendMember(w.value(), members[id]))
	}
	return w.err
}
