package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// The keys that Raft uses.
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
	keyVoteCand = "LastVoteCand"

	keyVote = "Vote" // ours: both halves of a vote as one value
)

// errNotFound is told apart by Raft by its text.
var errNotFound = errors.New("not found")

// stable is a raft.StableStore whose values have checksums. Raft stores a vote
// as two values, the term first; a crash in between would leave a vote for the
// former candidate in the new term (hashicorp/raft #661). Here the term is kept
// until the candidate comes, and both are one value.
type stable struct {
	s *Store

	mu     sync.Mutex
	voted  bool
	term   uint64
	cand   []byte
	staged uint64 // term of a vote whose candidate has not come yet
}

// load reads and verifies what is stored.
func (t *stable) load() error {
	if _, err := t.read(keyTerm); err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	v, err := t.read(keyVote)
	switch {
	case errors.Is(err, errNotFound):
		return nil
	case err != nil:
		return err
	case len(v) < 8:
		return fmt.Errorf("%w: the stored vote has %d bytes", ErrDamaged, len(v))
	}
	t.voted, t.term, t.cand = true, binary.BigEndian.Uint64(v), v[8:]
	return nil
}

func (t *stable) read(key string) ([]byte, error) {
	var value []byte
	err := t.s.guard.do("reading "+key, func() error {
		sealed, err := t.s.db.Get([]byte(key))
		if errors.Is(err, raftboltdb.ErrKeyNotFound) {
			return errNotFound
		}
		if err != nil {
			return err
		}
		value, err = openValue([]byte(key), sealed)
		return err
	})
	return value, err
}

func (t *stable) write(key string, value []byte) error {
	return t.s.guard.do("writing "+key, func() error {
		return t.s.db.Set([]byte(key), sealValue([]byte(key), value))
	})
}

// Set implements raft.StableStore.
func (t *stable) Set(key, value []byte) error {
	if string(key) != keyVoteCand {
		return t.write(string(key), value)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	vote := append(binary.BigEndian.AppendUint64(nil, t.staged), value...)
	if err := t.write(keyVote, vote); err != nil {
		return err
	}
	t.voted, t.term, t.cand = true, t.staged, vote[8:]
	return nil
}

// Get implements raft.StableStore.
func (t *stable) Get(key []byte) ([]byte, error) {
	if string(key) != keyVoteCand {
		return t.read(string(key))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.voted {
		return nil, errNotFound
	}
	return append([]byte(nil), t.cand...), nil
}

// SetUint64 implements raft.StableStore.
func (t *stable) SetUint64(key []byte, value uint64) error {
	if string(key) == keyTerm { // see behind.go
		if err := t.s.log.flush(); err != nil {
			return err
		}
	}
	if string(key) != keyVoteTerm {
		return t.write(string(key), binary.BigEndian.AppendUint64(nil, value))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.staged = value
	return nil
}

// GetUint64 implements raft.StableStore.
func (t *stable) GetUint64(key []byte) (uint64, error) {
	if string(key) == keyVoteTerm {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.voted {
			return 0, errNotFound
		}
		return t.term, nil
	}
	v, err := t.read(string(key))
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: value of %s has %d bytes", ErrDamaged, key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}
