package store

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// segmentBytes is the size of a segment, which is allocated at once: room on
// disk that an idle node occupies too, against a pause of some milliseconds
// each time that a segment is full.
const segmentBytes = 32 << 20

// stableFile is the stable store next to the segments.
const stableFile = "raft.db"

// walLog is a backend in segments: raft-wal, with what that lacks:
//
//   - the list of segments has a checksum, and missing files are noticed, see
//     segmentList;
//   - the last segment is checked as a whole, see checkTail;
//   - a read cannot meet a file that a deletion has just closed (raft-wal takes
//     its reference a moment too late);
//   - a last segment that was full when the process ended can be followed by the
//     next one, see finish. (raft-wal would refuse every append.)
type walLog struct {
	*wal.WAL

	mu sync.RWMutex // held for writing while entries are deleted
}

// openWAL opens and verifies the segments that the stable store lists. (What is
// in their entries is verified by scan.)
func openWAL(s *Store, cfg Config) (*walLog, error) {
	if err := removeUnnamed(cfg.Path); err != nil {
		return nil, err
	}
	m := &segmentList{s: s, dir: cfg.Path}
	list, found, err := m.read()
	if err != nil {
		return nil, err
	}
	if !found && !cfg.Fresh {
		return nil, fmt.Errorf("%w: %s has no list of segments", ErrDamaged, filepath.Join(cfg.Path, stableFile))
	}
	if n := len(list.Segments); n > 0 {
		last := list.Segments[n-1]
		end, err := checkTail(filepath.Join(cfg.Path, segment.FileName(last)), last)
		if err != nil {
			return nil, err
		}
		if end.index != 0 {
			if err := m.commit(finish(list, end)); err != nil {
				return nil, err
			}
		}
	}
	log := cfg.Logger
	if log == nil {
		log = hclog.NewNullLogger()
	}
	size := cfg.segmentBytes
	if size == 0 {
		size = segmentBytes
	}
	w, err := wal.Open(cfg.Path, wal.WithMetaStore(m), wal.WithLogger(log), wal.WithSegmentSize(size),
		wal.WithSegmentFiler(segment.NewFiler(cfg.Path, segmentFiles{})))
	if errors.Is(err, types.ErrCorrupt) {
		err = fmt.Errorf("%w: %s: %w", ErrDamaged, cfg.Path, err)
	}
	if err != nil {
		return nil, err
	}
	return &walLog{WAL: w}, nil
}

// finish completes what a full last segment begins: it is closed, and the next
// one follows.
func finish(list types.PersistentState, end tailEnd) types.PersistentState {
	last := &list.Segments[len(list.Segments)-1]
	last.SealTime = time.Now()
	last.IndexStart = end.index
	last.MaxIndex = last.BaseIndex + end.entries - 1
	list.Segments = append(list.Segments, types.SegmentInfo{
		ID: list.NextSegmentID, BaseIndex: last.MaxIndex + 1, MinIndex: last.MaxIndex + 1,
		Codec: last.Codec, CreateTime: last.SealTime, SizeLimit: last.SizeLimit,
	})
	list.NextSegmentID++
	return list
}

// GetLog implements raft.LogStore.
func (w *walLog) GetLog(index uint64, entry *raft.Log) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.WAL.GetLog(index, entry)
}

// DeleteRange implements raft.LogStore.
func (w *walLog) DeleteRange(low, high uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.WAL.DeleteRange(low, high)
}

// chunk implements backend: whole files are deleted, which takes no time.
func (w *walLog) chunk() uint64 { return math.MaxInt64 }

// room implements backend.
func (w *walLog) room(entries []*raft.Log) int { return len(entries) }

// settle implements backend.
func (w *walLog) settle(uint64) error { return nil }

// makeWALDir makes the directory of the segments.
func makeWALDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}
