package store

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"

	"github.com/hashicorp/raft"
)

// An append to raft-boltdb costs two flushes and a handful of pages. So the
// newest entries are staged: appended to a file that has its size already, with
// one flush. When one half of that file is full, the other one is written to, and
// a goroutine moves the entries of the full one to raft-boltdb, many in each
// transaction. Only then is that half written to again; appends wait if it comes
// to that.
//
// Until they have been moved the entries are in memory as well, and are read from
// there. The file is read at the start only, when everything in it is moved.
//
// At every moment raft-boltdb (the body) has the older and the staging file the
// newer entries, without a gap between them, and those that are in both are the
// same. A half counts for nothing once its generation, which is kept next to term
// and vote, has changed; that is the last step of moving.
//
//   - Cutting off the front, which happens behind a checkpoint, is noted in memory
//     and done in the body by and by. What was cut off before it was moved never
//     is. If the process ends, some of the front comes back: it was committed, and
//     harms nobody.
//   - Cutting off the end first brings everything into the body.
const (
	stageBytes = 16 << 20 // of the file, and about what may be in memory
	stageParts = 8        // about such a part of a half is written with one flush, or moved in one transaction: votes wait for it
)

// stage is a backend of a staging file and raft-boltdb.
type stage struct {
	s    *Store
	f    *os.File
	half int64 // bytes

	body  sync.Mutex // held while raft-boltdb's log or the generations change; taken before mu
	mover sync.WaitGroup

	mu          sync.Mutex
	changed     sync.Cond // halves, cut or ended
	first, last uint64    // entries in the body; 0: none
	cut         uint64    // the body is to be cut off up to there; 0: it has been
	staged      []*raft.Log
	halves      [2]half
	now         int // the half that is written to
	ended       bool

	content, sectors []byte // used again by each append
}

type half struct {
	gen   uint32
	at    int64  // bytes that are written
	batch uint32 // the last one's number
	last  uint64 // index of the last entry
}

var _ backend = (*stage)(nil)

// bodyLog is raft-boltdb.
func (t *stage) bodyLog() raft.LogStore { return t.s.db }

// chunk implements backend.
func (*stage) chunk() uint64 { return deleteChunk }

// FirstIndex implements raft.LogStore.
func (t *stage) FirstIndex() (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.last > t.cut:
		return max(t.first, t.cut+1), nil
	case len(t.staged) > 0:
		return t.staged[0].Index, nil
	}
	return 0, nil
}

// LastIndex implements raft.LogStore.
func (t *stage) LastIndex() (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.end(), nil
}

// end is the last entry's index, 0 if there is none. mu is held.
func (t *stage) end() uint64 {
	switch n := len(t.staged); {
	case n > 0:
		return t.staged[n-1].Index
	case t.last > t.cut:
		return t.last
	}
	return 0
}

// GetLog implements raft.LogStore.
func (t *stage) GetLog(index uint64, entry *raft.Log) error {
	if found, err := t.getStaged(index, entry); found || err != nil {
		return err
	}
	return t.bodyLog().GetLog(index, entry)
}

func (t *stage) getStaged(index uint64, entry *raft.Log) (found bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case index <= t.cut:
		return false, raft.ErrLogNotFound
	case len(t.staged) == 0 || index < t.staged[0].Index:
		return false, nil
	case index > t.end():
		return false, raft.ErrLogNotFound
	}
	*entry = *t.staged[index-t.staged[0].Index]
	return true, nil
}

// room implements backend: if the half that is written to has no room it waits
// until the other one has been moved.
func (t *stage) room(entries []*raft.Log) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		n := fitting(entries, t.half/stageParts, t.half-t.halves[t.now].at)
		other := 1 - t.now
		switch {
		case n > 0:
			return n
		case t.ended || t.halves[t.now].at == 0:
			return 1 // StoreLogs sees to it
		case t.halves[other].at == 0:
			t.now = other
			t.changed.Broadcast()
		default:
			t.changed.Wait()
		}
	}
}

// fitting is how many of the entries make a batch of about part bytes, if there
// is room for it.
func fitting(entries []*raft.Log, part, room int64) int {
	size := int64(0)
	for i, e := range entries {
		size += entryBytes(e)
		if sectorsFor(size)*sector > room || i > 0 && size > part {
			return i
		}
	}
	return len(entries)
}

// StoreLog implements raft.LogStore.
func (t *stage) StoreLog(entry *raft.Log) error { return t.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore, for as many entries as room has said. Only
// one goroutine at a time appends or cuts off the end.
func (t *stage) StoreLogs(entries []*raft.Log) error {
	t.mu.Lock()
	now, ended := t.halves[t.now], t.ended
	begin := int64(t.now) * t.half
	t.mu.Unlock()
	if ended {
		return errors.New("it is closed")
	}
	t.content = appendBatch(t.content[:0], entries)
	t.sectors = appendSectors(t.sectors[:0], t.content, begin+now.at, now.gen, now.batch+1)
	size := int64(len(t.sectors))
	if now.at+size > t.half {
		return t.storeLarge(entries)
	}
	if _, err := t.f.WriteAt(t.sectors, begin+now.at); err != nil {
		return err
	}
	if err := syncData(t.f); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := &t.halves[t.now]
	h.at, h.batch, h.last = h.at+size, h.batch+1, entries[len(entries)-1].Index
	t.staged = append(t.staged, entries...)
	return nil
}

// storeLarge stores entries for which a half is too small in the body.
func (t *stage) storeLarge(entries []*raft.Log) error {
	if err := t.settle(math.MaxUint64); err != nil {
		return err
	}
	t.body.Lock()
	defer t.body.Unlock()
	if err := t.bodyLog().StoreLogs(entries); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == 0 {
		t.first = entries[0].Index
	}
	t.last = entries[len(entries)-1].Index
	return nil
}

// settle implements backend: everything is in the body before the end is cut off.
func (t *stage) settle(high uint64) error {
	if last, _ := t.LastIndex(); high < last {
		return nil
	}
	t.body.Lock()
	defer t.body.Unlock()
	for more := true; more; {
		var err error
		if more, err = t.step(high, t.half/stageParts); err != nil {
			return err
		}
	}
	return t.forget(t.half)
}

// DeleteRange implements raft.LogStore.
func (t *stage) DeleteRange(low, high uint64) error {
	if t.cutFront(high) {
		return nil
	}
	t.body.Lock()
	defer t.body.Unlock()
	t.mu.Lock()
	first, last := t.first, t.last
	t.mu.Unlock()
	if low == first {
		first = high + 1
	} else {
		last = low - 1
	}
	return t.cutBody(low, high, first, last)
}

// cutFront cuts off what is not all. It reports false if it is.
func (t *stage) cutFront(high uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if high >= t.end() {
		return false
	}
	t.cut = max(t.cut, high) // even if there is nothing in the body: it may be on the way there
	t.drop(high)
	t.changed.Broadcast()
	return true
}

// drop forgets staged entries up to an index. mu is held.
func (t *stage) drop(index uint64) {
	if len(t.staged) == 0 || index < t.staged[0].Index {
		return
	}
	n := min(index-t.staged[0].Index+1, uint64(len(t.staged)))
	clear(t.staged[:n])
	if t.staged = t.staged[n:]; len(t.staged) == 0 {
		t.staged = nil
	}
}

// cutBody deletes from the body, of which first to last is to be left. body is held.
func (t *stage) cutBody(low, high, first, last uint64) error {
	if first > last {
		first, last = 0, 0
	}
	if err := t.bodyLog().DeleteRange(low, high); err != nil {
		return err
	}
	// raft-boltdb deletes while it walks a cursor, which bbolt does not promise to support.
	f, err := t.bodyLog().FirstIndex()
	if err != nil {
		return err
	}
	l, err := t.bodyLog().LastIndex()
	if err != nil {
		return err
	}
	if f != first || l != last {
		return fmt.Errorf("raft-boltdb has entries %d to %d after a deletion, not %d to %d", f, l, first, last)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.first, t.last = first, last
	return nil
}
