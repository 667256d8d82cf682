// Package store keeps on disk what Raft must not lose, its log, term and vote,
// and the node's identity. It is raft-boltdb/v2 with what that lacks: a checksum
// over each value, a scan at the start, votes stored in one transaction, appends
// with one flush, and an end to everything at the first error or when the disk
// hangs. The log may instead be in raft-wal, see [Kind], under the same checks.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// Kind says where the log is.
type Kind string

const (
	Bolt Kind = "bolt" // in the same file as term and vote, the newest entries in a staging file next to it
	WAL  Kind = "wal"  // in segments that are appended to; term and vote are in a file next to them
)

// Valid reports whether there is such a kind.
func (k Kind) Valid() bool { return k == Bolt || k == WAL }

// Config says how to open a Store.
type Config struct {
	Kind    Kind          // default Bolt
	Path    string        // Bolt: the file; WAL: the directory
	Fresh   bool          // it may be missing, and is then created; it must not hold anything
	Timeout time.Duration // longest that one operation may take
	// Fatal is called once when an operation has failed or hangs after Attach.
	// The process must end.
	Fatal      func(error)
	StageBytes int64        // Bolt: size of the staging file; default 16 MiB
	Logger     hclog.Logger // WAL: for what goes wrong in the background; default: discard

	segmentBytes int // WAL: size of a segment; default segmentBytes
}

// backend is where the entries are.
type backend interface {
	raft.LogStore
	chunk() uint64            // how many entries are deleted at a time
	room([]*raft.Log) int     // waits until some of these can be appended, and says how many
	settle(high uint64) error // is called before entries up to high are deleted; takes as long as it needs
	Close() error
}

// Store is Raft's log and stable store. After Attach, a goroutine that uses it
// when it has failed ends there and then.
type Store struct {
	db      *raftboltdb.BoltStore
	entries backend
	guard   *guard
	log     log
	vote    stable
}

// cacheEntries is how many entries are kept in memory. Followers that keep up
// are served from there; an entry is at most about 300 KiB, most are far smaller.
const cacheEntries = 256

// Open opens the files and verifies everything in them.
func Open(cfg Config) (*Store, error) {
	path := cfg.Path
	if cfg.Kind == WAL {
		path = filepath.Join(path, stableFile)
		if cfg.Fresh {
			if err := makeWALDir(cfg.Path); err != nil {
				return nil, err
			}
		}
	}
	if err := checkStable(path, cfg.Fresh); err != nil {
		return nil, err
	}
	s := &Store{guard: &guard{timeout: cfg.Timeout, fatal: cfg.Fatal}}
	s.log.s, s.vote.s = s, s
	s.log.moved.L = &s.log.mu
	err := protect(func() (err error) {
		s.db, err = openDB(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	if err := s.openLog(cfg); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openLog opens the log and verifies it.
func (s *Store) openLog(cfg Config) error {
	err := protect(func() error {
		if cfg.Kind == WAL {
			w, err := openWAL(s, cfg)
			if err == nil {
				s.entries = w
			}
			return err
		}
		t, err := openStage(s, cfg)
		if err == nil {
			s.entries = t
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := s.scan(); err != nil {
		return err
	}
	if cfg.Fresh && s.log.last != 0 {
		return fmt.Errorf("%w: %s holds a log, but %s next to its directory is missing", ErrDamaged, cfg.Path, identityFile)
	}
	return nil
}

// checkStable verifies the structure of the file of term and vote, which is made
// if it may be missing.
func checkStable(path string, fresh bool) error {
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist) && fresh:
		if err := create(path); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is missing", ErrDamaged, path)
	case err != nil:
		return err
	}
	return checkFile(path)
}

// create makes the file under another name first: a power loss while bbolt
// writes its first pages leaves a file that cannot be opened.
func create(path string) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := openDB(temp)
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	return renameSynced(temp, path)
}

func openDB(path string) (*raftboltdb.BoltStore, error) {
	return raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout:         time.Second,
			NoFreelistSync:  true, // the free list is found by a scan at the start; writing it costs more than the entries do
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: 1 << 30, // address space only; growing it waits for all readers
		},
	})
}

// scan verifies every value: checksums, that the log has no gaps and its terms
// do not decrease, and that the stored term is not behind the log's.
func (s *Store) scan() error {
	if err := protect(s.vote.load); err != nil {
		return err
	}
	return protect(func() error {
		first, err := s.entries.FirstIndex()
		if err != nil {
			return err
		}
		last, err := s.entries.LastIndex()
		if err != nil || last == 0 {
			return err
		}
		term := uint64(0)
		for i := first; i <= last; i++ {
			var entry raft.Log
			switch err := s.log.GetLog(i, &entry); {
			case errors.Is(err, raft.ErrLogNotFound):
				return fmt.Errorf("%w: log entry %d of %d to %d is missing", ErrDamaged, i, first, last)
			case err != nil:
				return err
			case entry.Term < term:
				return fmt.Errorf("%w: log entry %d is of term %d, the one before it of term %d", ErrDamaged, i, entry.Term, term)
			}
			term = entry.Term
		}
		s.log.first, s.log.last = first, last
		now, err := s.vote.GetUint64([]byte(keyTerm))
		if errors.Is(err, errNotFound) || err == nil && now < term {
			return fmt.Errorf("%w: the log has entries of term %d, but the stored term is %d", ErrDamaged, term, now)
		}
		return err
	})
}

// checkEnds verifies what a deletion has left.
func (s *Store) checkEnds(first, last uint64) error {
	f, err := s.entries.FirstIndex()
	if err != nil {
		return err
	}
	l, err := s.entries.LastIndex()
	if err == nil && (f != first || l != last) {
		err = fmt.Errorf("the log is %d to %d after a deletion, not %d to %d", f, l, first, last)
	}
	return err
}

// Reconcile drops entries that the state machine's checkpoint, at index and
// term, has made meaningless, and finds out if entries are missing after it.
func (s *Store) Reconcile(index, term uint64) error {
	s.Follows(index, term)
	first, last := s.log.first, s.log.last
	switch {
	case last == 0:
		return nil
	case first > index+1:
		return fmt.Errorf("%w: the state is that of log entry %d, but the log begins at %d", ErrDamaged, index, first)
	case index < first:
		return nil
	case last >= index:
		var entry raft.Log
		if err := s.log.GetLog(index, &entry); err != nil {
			return err
		}
		if entry.Term == term {
			return nil
		}
	}
	// A snapshot was installed, and the process ended before the log, which is
	// older or was never committed, could be emptied.
	return s.log.DeleteRange(first, last)
}

// Follows says that the state goes up to an entry that may be none of the log's,
// see precedes.
func (s *Store) Follows(index, term uint64) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.before = raft.Log{Index: index, Term: term, Type: raft.LogNoop}
}

// New reports that nothing was ever stored but perhaps a term, and forgets that:
// a term without a log or a vote has promised nothing. It lets a bootstrap be
// repeated that was interrupted halfway.
func (s *Store) New() (bool, error) {
	if s.log.last != 0 || s.vote.voted {
		return false, nil
	}
	return true, s.vote.SetUint64([]byte(keyTerm), 0)
}

// Log is the log for Raft.
func (s *Store) Log() (raft.LogStore, error) { return raft.NewLogCache(cacheEntries, &s.log) }

// FirstIndex is the log's first index, 0 if it is empty.
func (s *Store) FirstIndex() (uint64, error) { return s.log.FirstIndex() }

// Voted is the last term in which this server has voted, 0 if it never has.
func (s *Store) Voted() uint64 {
	s.vote.mu.Lock()
	defer s.vote.mu.Unlock()
	return s.vote.term
}

// Stable is the stable store for Raft.
func (s *Store) Stable() raft.StableStore { return &s.vote }

// Attach is called before Raft gets the store, see [Store].
func (s *Store) Attach() { s.guard.armed.Store(true) }

// Close closes the files. Raft must have been shut down.
func (s *Store) Close() error {
	var err error
	s.log.end()
	s.log.writer.Wait()
	if s.entries != nil {
		err = s.entries.Close()
	}
	return errors.Join(err, s.db.Close())
}
