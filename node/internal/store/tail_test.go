package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// Whatever a last segment holds: if it is accepted, then raft-wal finds the same
// end as the check did, and a second check has nothing left to do.
func FuzzTail(f *testing.F) {
	info := types.SegmentInfo{BaseIndex: 7, MinIndex: 7, ID: 3, Codec: 1, SizeLimit: 2048}
	for _, batches := range []int{0, 1, 3, 10} { // 10: it is full
		whole := segmentOf(f, info, batches)
		f.Add(whole, uint16(0), byte(0))
		f.Add(whole, uint16(len(bytes.TrimRight(whole, "\x00"))), byte(3))
		f.Add(whole, uint16(40), byte(1))
		f.Add(whole[:len(whole)/4], uint16(100), byte(0xff))
	}
	path := filepath.Join(f.TempDir(), segment.FileName(info)) // each worker is a process, with its own
	f.Fuzz(func(t *testing.T, b []byte, at uint16, flip byte) {
		b = append(bytes.Clone(b), make([]byte, max(0, int(info.SizeLimit)-len(b)))...)
		b[int(at)%len(b)] ^= flip
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		end, err := checkTail(path, info)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("%v is not ErrDamaged", err)
			}
			return
		}
		if again, err := checkTail(path, info); err != nil || again != end {
			t.Errorf("%+v, and the second time %+v %v", end, again, err)
		}
		w, err := segment.NewFiler(filepath.Dir(path), segmentFiles{}).RecoverTail(info)
		if err != nil {
			t.Fatalf("raft-wal: %v", err)
		}
		defer w.Close()
		var last uint64
		if end.entries > 0 {
			last = info.BaseIndex + end.entries - 1
		}
		if full, index, err := w.Sealed(); err != nil || w.LastIndex() != last || full != (end.index != 0) || index != end.index {
			t.Errorf("raft-wal: last %d, full %v, index at %d, %v; the check: %+v", w.LastIndex(), full, index, err, end)
		}
	})
}

// segmentOf is a segment with batches as raft-wal writes them.
func segmentOf(f *testing.F, info types.SegmentInfo, batches int) []byte {
	dir := f.TempDir()
	if err := createSegment(dir, info); err != nil {
		f.Fatal(err)
	}
	w, err := segment.NewFiler(dir, segmentFiles{}).Create(info)
	if err != nil {
		f.Fatal(err)
	}
	defer w.Close()
	next := info.BaseIndex
	for i := range batches {
		if full, _, _ := w.Sealed(); full {
			break
		}
		var entries []types.LogEntry
		for range 1 + i%3 {
			entries = append(entries, types.LogEntry{Index: next, Data: bytes.Repeat([]byte{byte(next)}, int(next*13%150))})
			next++
		}
		if err := w.Append(entries); err != nil {
			f.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, segment.FileName(info)))
	if err != nil {
		f.Fatal(err)
	}
	return b
}
