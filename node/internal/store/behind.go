package store

import (
	"errors"

	"github.com/hashicorp/raft"
)

// A leader sends entries to its followers while it writes them itself, rather
// than before (Ongaro's dissertation, 10.2.1): the disks work side by side. So
// StoreLogs returns to a leader at once, and a goroutine writes what is behind,
// everything that waits with one flush.
//
// Raft then counts this server among those that have stored the entries, and
// may take them for committed too early. Until they are on disk nobody gets to
// know: the state machine waits, see [Store.Await], and followers are told of no
// commit index beyond [Store.Durable]. What ends this server's leadership,
// a new term, is not stored before everything is written; so it neither votes nor
// acknowledges in another term what it could forget.
//
// Only commands are treated so. What Raft acts upon by itself, configurations
// above all, is on disk when StoreLogs returns.

// WriteBehind lets entries be written behind as long as leads says that this
// server leads, when asked from Raft's own goroutine. It starts the goroutine
// that writes, which Close ends.
func (s *Store) WriteBehind(leads func() bool) {
	s.log.leads.Store(&leads)
	s.log.writer.Go(s.log.write)
}

// Await waits until the entry at index and all before it are on disk.
func (s *Store) Await(index uint64) error { return s.log.await(index) }

// Durable is commit, or the last entry on disk if that is less.
func (s *Store) Durable(commit uint64) uint64 {
	if next := s.log.next.Load(); next != 0 {
		return min(commit, next-1)
	}
	return commit
}

func (l *log) leading() bool {
	leads := l.leads.Load()
	return leads != nil && (*leads)()
}

func onlyCommands(entries []*raft.Log) bool {
	for _, e := range entries {
		if e.Type != raft.LogCommand {
			return false
		}
	}
	return true
}

// storeBehind puts entries where the writer finds them.
func (l *log) storeBehind(entries []*raft.Log) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.s.guard.do("appending to the log", func() error {
		if l.ended {
			return errors.New("it is closed")
		}
		return sealAll(entries, l.last)
	})
	if err != nil {
		return err
	}
	if len(l.behind) == 0 {
		l.next.Store(entries[0].Index)
	}
	l.behind = append(l.behind, entries...)
	l.appended(entries)
	l.moved.Broadcast()
	return nil
}

// write writes what is behind until the log is closed or the disk fails.
func (l *log) write() {
	defer l.end()
	for {
		l.mu.Lock()
		for len(l.behind) == 0 && !l.ended {
			l.moved.Wait()
		}
		entries := l.behind
		l.mu.Unlock()
		if len(entries) == 0 {
			return
		}
		if err := l.writeSome(entries); err != nil {
			return
		}
	}
}

func (l *log) writeSome(entries []*raft.Log) error {
	l.file.Lock()
	defer l.file.Unlock()
	return l.append(entries, l.written)
}

// written notes that what was behind is on disk. mu is held.
func (l *log) written(entries []*raft.Log) {
	if l.behind = l.behind[len(entries):]; len(l.behind) == 0 {
		l.behind = nil
		l.next.Store(0)
	} else {
		l.next.Store(l.behind[0].Index)
	}
	l.moved.Broadcast()
}

// end makes the writer end once nothing is behind, or notes that it has ended.
func (l *log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.moved.Broadcast()
}

func (l *log) await(index uint64) error {
	if next := l.next.Load(); next == 0 || next > index {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.behind) > 0 && l.behind[0].Index <= index {
		if l.ended && l.s.guard.failed.Load() {
			return l.s.guard.stop(errFailed)
		}
		l.moved.Wait()
	}
	return nil
}

// flush waits until everything is on disk that the log had when it was called.
func (l *log) flush() error {
	last, _ := l.LastIndex()
	return l.await(last)
}

// inMemory copies an entry that is behind.
func (l *log) inMemory(index uint64, entry *raft.Log) bool {
	if next := l.next.Load(); next == 0 || index < next {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.behind) == 0 || index < l.behind[0].Index || index > l.last {
		return false
	}
	*entry = *l.behind[index-l.behind[0].Index]
	return true
}
