package fsm

import (
	"bytes"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley"
)

// Users answers the query. A code from 100 on means that there is no answer.
func (f *FSM) Users(q parley.Users) parley.Result {
	p, err := newPattern(q.Pattern)
	if err != nil {
		return parley.Result{Code: parley.CodeBadPattern, Detail: err.Error()}
	}
	l := listing{pattern: p, limit: q.Limit}
	if q.After != "" {
		key, _, err := Fold(q.After)
		if err != nil {
			key = q.After // no name, but it has its place among them
		}
		l.after = key
	}
	var changed []*generation
	var changes [][]nameChange
	return f.ask(func(st *state) {
		for _, g := range [...]*generation{st.older, st.active} {
			if !g.stored && len(g.names) > 0 {
				changed, changes = append(changed, g), append(changes, g.names)
			}
		}
	}, func(tx *bbolt.Tx) (parley.Result, error) {
		for i, g := range changed {
			l.changes.add(g.sorted.update(changes[i]), max(l.prefix, l.after))
		}
		return l.read(tx.Bucket(bucketUsers.name).Cursor())
	})
}

// listing is one page of names.
type listing struct {
	pattern
	after string
	limit int // 0 or less: as many as fit

	changes names // what the memory says

	names []string
	size  int
	more  bool

	scratch []byte
}

// read merges the checkpoint's names with the changes.
func (l *listing) read(stored *bbolt.Cursor) (parley.Result, error) {
	prefix := []byte(l.prefix)
	k, v := stored.Seek([]byte(max(l.prefix, l.after)))
	for !l.more {
		if k != nil && !bytes.HasPrefix(k, prefix) {
			k = nil
		}
		c := l.changes.peek()
		if c != nil && (k == nil || c.name <= string(k)) {
			if string(k) == c.name {
				k, v = stored.Next()
			}
			if !l.change(c) {
				l.changes = names{}
			}
			continue
		}
		if k == nil {
			break
		}
		if string(k) > l.after {
			if err := l.stored(k, v); err != nil {
				return parley.Result{}, err
			}
		}
		k, v = stored.Next()
	}
	return parley.Result{Names: l.names, More: l.more}, nil
}

// change lists a change, unless the user has gone. It reports false beyond the
// prefix.
func (l *listing) change(c *nameChange) bool {
	if !strings.HasPrefix(c.name, l.prefix) {
		return false
	}
	if !c.gone && c.name > l.after {
		l.scratch = append(l.scratch[:0], c.shown...)
		l.add(l.scratch)
	}
	l.changes.next(c.name)
	return true
}

// stored lists a user of the checkpoint.
func (l *listing) stored(k, v []byte) error {
	payload, err := bucketUsers.open(k, v)
	if err != nil {
		return err
	}
	_, shown, ok := readUser(payload)
	if !ok {
		return bucketUsers.malformed(k)
	}
	l.add(shown)
	return nil
}

// add lists a name if it matches and there is room.
func (l *listing) add(shown []byte) {
	switch {
	case !l.match(shown):
	case (l.limit > 0 && len(l.names) == l.limit) || l.size+len(shown) > pageBytes-4*len(l.names):
		l.more = true
	default:
		l.names = append(l.names, string(shown))
		l.size += len(shown)
	}
}
