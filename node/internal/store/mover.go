package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/hashicorp/raft"
)

// keyStage is the key, in the stable store, of the generations of both halves of
// the staging file, 4 bytes each, and the size of a half, 8 bytes; 0 if there is
// no such file. The half of the lower generation is the older one.
const keyStage = "Stage"

// stagePath is the staging file of a log.
func stagePath(path string) string { return path + ".stage" }

// openStage opens a log, moves everything that is staged to the body, and starts
// the goroutine that moves what will be.
func openStage(s *Store, cfg Config) (t *stage, err error) {
	t = &stage{s: s, half: cfg.StageBytes / 2 / sector * sector}
	if t.half == 0 {
		t.half = stageBytes / 2
	}
	t.changed.L = &t.mu
	if t.first, err = s.db.FirstIndex(); err != nil {
		return nil, err
	}
	if t.last, err = s.db.LastIndex(); err != nil {
		return nil, err
	}
	size, err := t.readGenerations()
	if err != nil {
		return nil, err
	}
	path := stagePath(cfg.Path)
	if size != 0 {
		if err := t.recover(path, size); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if size != t.half {
		if err := t.create(path, size != 0); err != nil {
			return nil, err
		}
	}
	if t.f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	t.mover.Go(t.move)
	return t, nil
}

// readGenerations returns the size of a half, 0 if there is no staging file.
func (t *stage) readGenerations() (size int64, err error) {
	v, err := t.s.vote.read(keyStage)
	switch {
	case errors.Is(err, errNotFound):
		t.halves[0].gen, t.halves[1].gen = 1, 2
		return 0, nil
	case err != nil:
		return 0, err
	case len(v) != 16:
		return 0, fmt.Errorf("%w: value of %s has %d bytes", ErrDamaged, keyStage, len(v))
	}
	for i := range t.halves {
		t.halves[i].gen = binary.LittleEndian.Uint32(v[4*i:])
	}
	return int64(binary.LittleEndian.Uint64(v[8:])), nil
}

// writeGenerations makes generations known. body is held, or nobody else is there.
func (t *stage) writeGenerations(gens [2]uint32, size int64) error {
	v := binary.LittleEndian.AppendUint32(nil, gens[0])
	v = binary.LittleEndian.AppendUint32(v, gens[1])
	v = binary.LittleEndian.AppendUint64(v, uint64(size))
	if err := t.s.vote.write(keyStage, v); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, gen := range gens {
		if t.halves[i].gen != gen {
			t.halves[i] = half{gen: gen}
		}
	}
	t.changed.Broadcast()
	return nil
}

// create makes a staging file, of zeros. known says that there is one of another
// size, which is empty.
func (t *stage) create(path string, known bool) error {
	gens := [2]uint32{t.halves[0].gen, t.halves[1].gen}
	if known {
		if err := t.writeGenerations(gens, 0); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = allocate(f, 2*t.half)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := renameSynced(path+".new", path); err != nil {
		return err
	}
	return t.writeGenerations(gens, t.half)
}

// recover reads the staging file, whose halves have a size, and moves what is in it.
func (t *stage) recover(path string, size int64) error {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: it is missing", ErrDamaged)
	case err != nil:
		return err
	case int64(len(b)) != 2*size || size%sector != 0:
		return fmt.Errorf("%w: it has %d bytes, it was made with %d", ErrDamaged, len(b), 2*size)
	}
	older := 0
	if t.halves[1].gen < t.halves[0].gen {
		older = 1
	}
	used := false
	for _, i := range [2]int{older, 1 - older} {
		at := int64(i) * size
		entries, some, err := readHalf(b[at:at+size], at, t.halves[i].gen)
		if err != nil {
			return err
		}
		if used = used || some; len(entries) == 0 {
			continue
		}
		if n := len(t.staged); n > 0 && t.staged[n-1].Index+1 != entries[0].Index {
			return fmt.Errorf("%w: log entry %d follows entry %d", ErrDamaged, entries[0].Index, t.staged[n-1].Index)
		}
		t.staged = append(t.staged, entries...)
	}
	if err := t.join(); err != nil {
		return err
	}
	for more := true; more; {
		if more, err = t.step(t.end(), t.half); err != nil {
			return err
		}
	}
	if !used {
		return nil
	}
	t.halves[0].at = size // what a batch has left that was not finished must not meet another one
	return t.forget(size)
}

// join compares what is both staged and in the body, and leaves staged what
// follows the body.
func (t *stage) join() error {
	if len(t.staged) == 0 || t.last == 0 {
		return nil
	}
	first, last := t.staged[0].Index, t.end()
	if first > t.last+1 || last < t.last {
		return fmt.Errorf("%w: it has log entries %d to %d, but raft-boltdb has %d to %d", ErrDamaged, first, last, t.first, t.last)
	}
	for i := max(first, t.first); i <= t.last; i++ {
		var e raft.Log
		if err := t.bodyLog().GetLog(i, &e); err != nil {
			return fmt.Errorf("%w: log entry %d: %v", ErrDamaged, i, err)
		}
		if !same(&e, t.staged[i-first]) {
			return fmt.Errorf("%w: log entry %d is another one in raft-boltdb", ErrDamaged, i)
		}
	}
	t.drop(t.last)
	return nil
}

// same reports whether two entries are.
func same(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.AppendedAt.Equal(b.AppendedAt) &&
		bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

// move moves what is in a full half, and cuts off the front, until the log is
// closed or the disk fails.
func (t *stage) move() {
	defer t.stop()
	for t.awaitWork() {
		if err := t.advance(); err != nil {
			return
		}
	}
}

func (t *stage) awaitWork() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.ended && t.cut == 0 && t.halves[1-t.now].at == 0 {
		t.changed.Wait()
	}
	return !t.ended
}

// advance takes one step; the last one gives the full half back.
func (t *stage) advance() error {
	t.body.Lock()
	defer t.body.Unlock()
	t.mu.Lock()
	full := t.halves[1-t.now]
	t.mu.Unlock()
	if more, err := t.step(full.last, t.half/stageParts); more || err != nil || full.at == 0 {
		return err
	}
	t.mu.Lock()
	gens := [2]uint32{t.halves[0].gen, t.halves[1].gen}
	gens[1-t.now] = gens[t.now] + 1
	t.mu.Unlock()
	return t.writeGenerations(gens, t.half)
}

// forget makes both halves count for nothing. body is held, or nobody else is
// there, everything is in the body, and the file's halves have a size.
func (t *stage) forget(size int64) error {
	t.mu.Lock()
	unused := t.halves[0].at == 0 && t.halves[1].at == 0
	next := max(t.halves[0].gen, t.halves[1].gen) + 1
	t.mu.Unlock()
	if unused {
		return nil
	}
	if err := t.writeGenerations([2]uint32{next, next + 1}, size); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = 0
	return nil
}

// step does, in one transaction, some of what is to be done in the body: the
// front is cut off first, so that there is never a gap; then entries up to an
// index are moved, about part bytes of them. It reports false if there was nothing
// to do. body is held, or nobody else is there.
func (t *stage) step(to uint64, part int64) (more bool, err error) {
	t.mu.Lock()
	cut, first, last := t.cut, t.first, t.last
	if first == 0 || first > cut {
		t.cut, cut = 0, 0
	}
	some := slices.Clone(t.staged[:movable(t.staged, part, to)]) // others may drop them meanwhile
	t.mu.Unlock()
	switch {
	case cut != 0:
		high := min(cut, last, first+deleteChunk-1)
		return true, t.s.guard.do("deleting from the log", func() error { return t.cutBody(first, high, high+1, last) })
	case len(some) == 0:
		return false, nil
	}
	err = t.s.guard.do("moving the log", func() error { return t.bodyLog().StoreLogs(some) })
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == 0 {
		t.first = some[0].Index
	}
	t.last = some[len(some)-1].Index
	t.drop(t.last)
	return true, nil
}

// movable is how many entries, of those up to an index, one transaction of about
// part bytes takes.
func movable(entries []*raft.Log, part int64, to uint64) int {
	size := int64(0)
	for i, e := range entries {
		if size += entryBytes(e); e.Index > to || i > 0 && size > part {
			return i
		}
	}
	return len(entries)
}

// stop makes the goroutine end, or notes that it has ended.
func (t *stage) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.changed.Broadcast()
}

// Close implements backend. What is staged stays so.
func (t *stage) Close() error {
	t.stop()
	t.mover.Wait()
	if err := t.f.Close(); !errors.Is(err, os.ErrClosed) { // it may be closed twice, as bbolt
		return err
	}
	return nil
}
