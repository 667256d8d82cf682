package store

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// deleteChunk is how many entries one transaction deletes in bbolt. Raft appends on the
// same file meanwhile, and a long transaction would keep it from its heartbeats.
const deleteChunk = 512

// log is a raft.LogStore whose entries have checksums and no gaps. The newest
// entries of a leader may be in memory only, see behind.go.
type log struct {
	s *Store

	file sync.Mutex // held while the file changes; taken before mu

	mu          sync.Mutex
	first, last uint64   // 0: empty
	before      raft.Log // end of the newest snapshot
	behind      []*raft.Log
	moved       sync.Cond     // behind has changed, or the writer has ended
	ended       bool          // the writer has, or is to when behind is empty
	next        atomic.Uint64 // index of behind[0], 0 if there is none

	leads  atomic.Pointer[func() bool]
	writer sync.WaitGroup
}

var _ raft.MonotonicLogStore = (*log)(nil)

// IsMonotonic makes Raft empty the log after it has installed a snapshot,
// rather than leave a gap behind older entries.
func (l *log) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (l *log) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, nil
}

// LastIndex implements raft.LogStore.
func (l *log) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, nil
}

// GetLog implements raft.LogStore.
func (l *log) GetLog(index uint64, entry *raft.Log) error {
	if l.inMemory(index, entry) {
		return nil
	}
	err := l.s.guard.do("reading the log", func() error {
		switch err := l.s.entries.GetLog(index, entry); {
		case errors.Is(err, raft.ErrLogNotFound):
			return err
		case err != nil:
			return fmt.Errorf("%w: log entry %d: %v", ErrDamaged, index, err)
		}
		if entry.Index != index {
			return fmt.Errorf("%w: log entry %d is stored as %d", ErrDamaged, entry.Index, index)
		}
		return Verify(entry)
	})
	if errors.Is(err, raft.ErrLogNotFound) && l.precedes(index, entry) {
		return nil
	}
	return err
}

// precedes fills in the index and term of the last entry of a snapshot that the log
// follows. Raft compares the next entries with it, and if they come another time,
// because an answer was lost, finds it nowhere else: the leader would go back
// through all of its log, send the snapshot again, and so on. Its leader never
// sends it on, since there is nothing before it.
func (l *log) precedes(index uint64, entry *raft.Log) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index != l.before.Index || index <= 1 || l.last != 0 && l.first != index+1 {
		return false
	}
	*entry = l.before
	return true
}

// StoreLog implements raft.LogStore.
func (l *log) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore. A leader's commands are not on disk yet
// when it returns.
func (l *log) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	if l.leading() && onlyCommands(entries) {
		return l.storeBehind(entries)
	}
	if err := l.flush(); err != nil {
		return err
	}
	l.file.Lock()
	defer l.file.Unlock()
	err := l.s.guard.do("appending to the log", func() error {
		last, _ := l.LastIndex()
		return sealAll(entries, last)
	})
	if err != nil {
		return err
	}
	return l.append(entries, l.appended)
}

// append writes entries, as many at a time as there is room for; stored is told,
// with mu held. file is held.
func (l *log) append(entries []*raft.Log, stored func([]*raft.Log)) error {
	for len(entries) > 0 {
		some := entries[:l.s.entries.room(entries)]
		err := l.s.guard.do("appending to the log", func() error { return l.s.entries.StoreLogs(some) })
		if err != nil {
			return err
		}
		l.mu.Lock()
		stored(some)
		l.mu.Unlock()
		entries = entries[len(some):]
	}
	return nil
}

// sealAll gives checksums to entries that are to follow the one at last.
func sealAll(entries []*raft.Log, last uint64) error {
	if last == 0 {
		last = entries[0].Index - 1
	}
	for _, e := range entries {
		if last++; e.Index != last {
			return fmt.Errorf("entry %d cannot follow entry %d", e.Index, last-1)
		}
		if err := seal(e); err != nil {
			return err
		}
	}
	return nil
}

// appended notes that the log has grown. mu is held.
func (l *log) appended(entries []*raft.Log) {
	if l.last == 0 {
		l.first = entries[0].Index
	}
	l.last = entries[len(entries)-1].Index
}

// DeleteRange implements raft.LogStore: either end of the log is cut off. It is
// done in small transactions, from that end, so that a crash leaves no gap.
func (l *log) DeleteRange(low, high uint64) error {
	if err := l.flush(); err != nil {
		return err
	}
	for {
		more, err := l.deleteSome(low, high)
		if err != nil || !more {
			return err
		}
	}
}

func (l *log) deleteSome(low, high uint64) (more bool, err error) {
	l.file.Lock()
	defer l.file.Unlock()
	begin, end := l.onDisk()
	low, high = max(low, begin), min(high, end)
	if end == 0 || low > high {
		return false, nil
	}
	chunk := l.s.entries.chunk()
	from, to := low, min(high, low+chunk-1)
	first, last := to+1, end
	if low > begin { // the newer end
		from, to = max(low, high-min(high, chunk-1)), high
		first, last = begin, from-1
	}
	if first > last {
		first, last = 0, 0
	}
	if err := l.s.entries.settle(to); err != nil {
		return false, err
	}
	err = l.s.guard.do("deleting from the log", func() error {
		if low > begin && high != end {
			return fmt.Errorf("entries %d to %d are within the log, %d to %d", low, high, begin, end)
		}
		if err := l.s.entries.DeleteRange(from, to); err != nil {
			return err
		}
		l.deleted(first, last)
		return l.s.checkEnds(first, last)
	})
	return from > low || to < high, err
}

// onDisk is the log without what is in memory only; 0, 0 is empty. file is held.
func (l *log) onDisk() (first, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.behind) == 0 {
		return l.first, l.last
	}
	if next := l.behind[0].Index; next > l.first {
		return l.first, next - 1
	}
	return 0, 0
}

// deleted notes what is left on disk. file is held.
func (l *log) deleted(first, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.behind); n > 0 {
		last = l.behind[n-1].Index
		if first == 0 {
			first = l.behind[0].Index
		}
	}
	l.first, l.last = first, last
}
