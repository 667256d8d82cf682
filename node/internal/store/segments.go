package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// keyWAL is the key of the list of segments in the stable store.
const keyWAL = "WAL"

// segmentList is the types.MetaStore of the log in segments: which files the log
// consists of, and from which to which index. It is a value in the stable store,
// since that has checksums and is created by renaming, which raft-wal's own has
// not and cannot.
//
// A segment's file is there, in full size and synced, before the list names it.
// So a file that is missing, or short, is damage; raft-wal would make an empty
// one in its place, and forget what was acknowledged.
type segmentList struct {
	s    *Store
	dir  string
	made bool   // the last segment's file exists
	tail uint64 // id of the last segment, from 0
}

var _ types.MetaStore = (*segmentList)(nil)

// read returns the list, and false if there is none yet.
func (m *segmentList) read() (types.PersistentState, bool, error) {
	var list types.PersistentState
	b, err := m.s.vote.read(keyWAL)
	switch {
	case errors.Is(err, errNotFound):
		return list, false, nil
	case err != nil:
		return list, false, err
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return list, false, fmt.Errorf("%w: list of segments: %v", ErrDamaged, err)
	}
	if n := len(list.Segments); n > 0 {
		m.made, m.tail = true, list.Segments[n-1].ID
	}
	return list, true, nil
}

// Load implements types.MetaStore.
func (m *segmentList) Load(string) (types.PersistentState, error) {
	list, _, err := m.read()
	return list, err
}

// CommitState implements types.MetaStore. It runs on a goroutine of raft-wal too,
// which only logs errors; hence they are not left to whoever meets them next.
func (m *segmentList) CommitState(list types.PersistentState) error {
	err := protect(func() error { return m.commit(list) })
	if err != nil {
		err = fmt.Errorf("writing the list of segments: %w", err)
		m.s.guard.fail(err)
	}
	return err
}

func (m *segmentList) commit(list types.PersistentState) error {
	n := len(list.Segments)
	if n == 0 {
		return errors.New("a log without a segment")
	}
	last := list.Segments[n-1]
	if !m.made || last.ID != m.tail {
		if err := createSegment(m.dir, last); err != nil {
			return err
		}
	}
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := m.s.db.Set([]byte(keyWAL), sealValue([]byte(keyWAL), b)); err != nil {
		return err
	}
	full, shrink := m.tail, m.made && last.ID != m.tail
	m.made, m.tail = true, last.ID
	for _, info := range list.Segments[:n-1] {
		if shrink && info.ID == full {
			return shrinkSegment(m.dir, info)
		}
	}
	return nil
}

// GetStable implements types.MetaStore. The stable store is another one.
func (m *segmentList) GetStable([]byte) ([]byte, error) { return nil, errors.ErrUnsupported }

// SetStable implements types.MetaStore.
func (m *segmentList) SetStable([]byte, []byte) error { return errors.ErrUnsupported }

// Close implements types.MetaStore. The stable store is closed by [Store.Close].
func (m *segmentList) Close() error { return nil }

// createSegment makes a segment's file: zeros, under another name first. One of
// the same name is of a crash before the list named it.
func createSegment(dir string, info types.SegmentInfo) error {
	path := filepath.Join(dir, segment.FileName(info))
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = allocate(f, int64(info.SizeLimit))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return renameSynced(path+".new", path)
}

// shrinkSegment gives back what a segment that gets no more entries has not used:
// after the end of the log was cut off, which happens at changes of leadership,
// that is most of it.
func shrinkSegment(dir string, info types.SegmentInfo) error {
	f, err := os.OpenFile(filepath.Join(dir, segment.FileName(info)), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	end, err := indexEnd(f, info)
	if err != nil || end >= stat.Size() {
		return err
	}
	return f.Truncate(end)
}

// segmentFiles is the types.VFS of the segments.
type segmentFiles struct{}

var _ types.VFS = segmentFiles{}

// ListDir implements types.VFS.
func (segmentFiles) ListDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Create implements types.VFS. The file is there, see createSegment.
func (v segmentFiles) Create(dir, name string, _ uint64) (types.WritableFile, error) {
	return v.OpenWriter(dir, name)
}

// Delete implements types.VFS.
func (segmentFiles) Delete(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// OpenReader implements types.VFS.
func (segmentFiles) OpenReader(dir, name string) (types.ReadableFile, error) {
	f, err := os.Open(filepath.Join(dir, name))
	return f, missing(err)
}

// OpenWriter implements types.VFS.
func (segmentFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
	return segmentFile{f}, missing(err)
}

// missing hides fs.ErrNotExist, at which raft-wal would make a new file.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrDamaged, err.Error())
	}
	return err
}

// segmentFile is a segment that is written to.
type segmentFile struct{ *os.File }

// Sync implements types.WritableFile.
func (f segmentFile) Sync() error { return syncData(f.File) }

// removeUnnamed removes what a crash has left of files that never got their name.
func removeUnnamed(dir string) error {
	names, err := segmentFiles{}.ListDir(dir)
	for _, name := range names {
		if strings.HasSuffix(name, ".wal.new") {
			err = errors.Join(err, os.Remove(filepath.Join(dir, name)))
		}
	}
	return err
}
