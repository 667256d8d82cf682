package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/types"
)

// files are the contents of a directory, by name.
type files map[string][]byte

// readFiles reads a directory, the bbolt file without its unused end.
func readFiles(t *testing.T, dir string) files {
	t.Helper()
	fs := make(files)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() == stableFile {
			b = b[:(used(b)+4095)/4096*4096]
		}
		fs[e.Name()] = b
	}
	return fs
}

func used(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

// write makes a new directory of them.
func (fs files) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range fs {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (fs files) with(name string, b []byte) files {
	changed := maps.Clone(fs)
	changed[name] = b
	return changed
}

// segments are the names of the segments, oldest first.
func (fs files) segments() (names []string) {
	for name := range fs {
		if strings.HasSuffix(name, ".wal") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (fs files) tail() string { names := fs.segments(); return names[len(names)-1] }

// tryOpen opens a directory that may be damaged.
func tryOpen(dir string) (*Store, error) {
	return Open(config(WAL, dir, false, func(error) {}))
}

// filled makes a log of some segments, whose last one holds the given number of
// batches of 10 entries at least.
func filled(t *testing.T, entries uint64) files {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	s := open(t, WAL, dir, true)
	vote(t, s, 40, "n1")
	for i := uint64(1); i < entries; i += 10 {
		appendEntries(t, s, i, min(i+9, entries))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return readFiles(t, dir)
}

// Whatever byte of the segments or of their list is changed, the store either
// does not open or holds exactly what was put in.
func TestFlippedBytesInSegments(t *testing.T) {
	good := filled(t, 380)
	if n := len(good.segments()); n < 4 || used(good[good.tail()]) < 4<<10 {
		t.Fatalf("%d segments, %d bytes in the last", n, used(good[good.tail()]))
	}
	stride := 997
	if testing.Short() {
		stride = 3989
	}
	for name, b := range good {
		caught, missed := 0, 0
		for at := rand.IntN(stride); at < len(b); at += 1 + rand.IntN(stride) {
			bad := bytes.Clone(b)
			bad[at] ^= 1 << rand.IntN(8)
			s, err := tryOpen(good.with(name, bad).write(t))
			if err != nil {
				caught++
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("%s, byte %d: %v is not ErrDamaged", name, at, err)
				}
				continue
			}
			missed++
			t.Run(fmt.Sprintf("%s byte %d", name, at), func(t *testing.T) { ends(t, s, 1, 380) })
			s.Close()
		}
		t.Logf("%s: %d caught, %d without effect", name, caught, missed)
		if caught == 0 {
			t.Errorf("%s: no flipped byte was caught", name)
		}
	}
}

// The last segment is where raft-wal believes that the log has ended: each byte
// of its batches counts, those of the last one too.
func TestEveryByteOfTheLastSegment(t *testing.T) {
	good := filled(t, 35)
	b := bytes.Clone(good[good.tail()])
	f, err := os.Create(filepath.Join(t.TempDir(), "segment"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end := used(b)
	for at := range end {
		b[at] ^= 1 << rand.IntN(8)
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := checkTail(f.Name(), tailInfo()); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d of %d: %v", at, end, err)
		}
		b = bytes.Clone(good[good.tail()])
	}
}

// A batch that the machine did not finish writing is removed, and nothing else;
// the log goes on from there.
func TestTornBatch(t *testing.T) {
	for _, batch := range []uint64{1, 7, 40} { // 40: the segment is full with it
		before := filled(t, 130)
		dir := before.write(t)
		s := open(t, WAL, dir, false)
		name := before.tail()
		appendEntries(t, s, 131, 130+batch)
		s.Close()
		whole, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		start, end := used(before[name]), used(whole)
		for range 12 {
			torn := make([]byte, len(whole))
			copy(torn, before[name])
			if rand.IntN(2) == 0 { // the process was killed; frames are aligned
				copy(torn[start:], whole[start:start+rand.IntN((end-start)/frameHeader)*frameHeader])
			} else { // the power failed: any sectors may be there
				for at := start / sector * sector; at < end; at += sector {
					if rand.IntN(3) > 0 {
						copy(torn[at:min(at+sector, len(torn))], whole[at:])
					}
				}
			}
			if bytes.Equal(torn, whole) {
				continue
			}
			goesOn(t, before.with(name, torn), 130)
		}
	}
}

// goesOn checks that a log ends at an index, and that it can be continued.
func goesOn(t *testing.T, fs files, last uint64) {
	t.Helper()
	dir := fs.write(t)
	s, err := tryOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ends(t, s, 1, last)
	appendEntries(t, s, last+1, last+3)
	s.Close()
	s = open(t, WAL, dir, false)
	ends(t, s, 1, last+3)
	appendEntries(t, s, last+4, last+200)
	s.Close()
	s = open(t, WAL, dir, false)
	ends(t, s, 1, last+200)
	if err := s.log.DeleteRange(last, last+200); err != nil {
		t.Fatal(err)
	}
	appendEntries(t, s, last, last+1)
	s.Close()
	s = open(t, WAL, dir, false)
	defer s.Close()
	ends(t, s, 1, last+1)
}

// The process ends when a segment is full, before the next one is there.
func TestEndsWithFullSegment(t *testing.T) {
	before := filled(t, 130)
	dir := before.write(t)
	s := open(t, WAL, dir, false)
	appendEntries(t, s, 131, 200)
	s.Close()
	after := readFiles(t, dir)
	full := before.with(before.tail(), after[before.tail()])
	info := tailInfo()
	if end, err := checkTail(filepath.Join(full.write(t), full.tail()), info); err == nil && end.index == 0 {
		t.Fatal("the segment is not full")
	}
	var last uint64
	for i := uint64(131); i <= 200; i++ { // which is the last one in it
		if bytes.Contains(full[full.tail()], entry(i).Data) {
			last = i
		}
	}
	goesOn(t, full, last)
}

func TestMissingSegment(t *testing.T) {
	good := filled(t, 300)
	for name, b := range good {
		without := maps.Clone(good)
		delete(without, name)
		for what, bad := range map[string]files{"missing": without, "empty": good.with(name, nil), "cut off": good.with(name, b[:used(b)/2])} {
			s, err := tryOpen(bad.write(t))
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("%s %s: %v", name, what, err)
			}
		}
	}
}

// What a crash leaves next to the segments does no harm.
func TestLeftoverSegments(t *testing.T) {
	good := filled(t, 300)
	stray := good.with("00000000000000000777-00000000000000ff.wal", []byte("x")).with(good.tail()+".new", []byte("y"))
	dir := stray.write(t)
	s := open(t, WAL, dir, false)
	defer s.Close()
	ends(t, s, 1, 300)
	if entries, _ := os.ReadDir(dir); len(entries) != len(good) {
		t.Errorf("%d files, want %d", len(entries), len(good))
	}
}

// A new segment cannot be made: raft-wal only logs that.
func TestFailingRotationIsFatal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	fatal := make(chan error, 1)
	s, err := Open(config(WAL, dir, true, func(err error) { fatal <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Attach()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // as Raft would
		defer close(done)
		appendEntries(t, s, 1, 1000)
		t.Error("appending went on")
	}()
	<-done
	if err := <-fatal; !strings.Contains(err.Error(), "list of segments") {
		t.Errorf("fatal: %v; want what went wrong first", err)
	}
}

// Entries are read while they are deleted. (That a read met a closed file would
// be rare: this is for the race detector.)
func TestReadsDuringDeletion(t *testing.T) {
	s := open(t, WAL, filepath.Join(t.TempDir(), "log"), true)
	defer s.Close()
	appendEntries(t, s, 1, 2000)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				first, _ := s.log.FirstIndex()
				readAny(t, s, first)
			}
		})
	}
	for i := uint64(50); i < 1900; i += 50 {
		if err := s.log.DeleteRange(1, i); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func readAny(t *testing.T, s *Store, index uint64) {
	var e raft.Log
	if err := s.log.GetLog(index, &e); err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		t.Error(err)
	}
}

// tailInfo is what the list says of the only segment of a new log.
func tailInfo() types.SegmentInfo {
	return types.SegmentInfo{ID: 0, BaseIndex: 1, Codec: wal.CodecBinaryV1, SizeLimit: testSegment}
}

// Cutting off the end of the log, as it happens at each change of leadership,
// does not cost a whole segment on disk.
func TestCutSegmentsAreSmall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	s := open(t, WAL, dir, true)
	vote(t, s, 40, "n1")
	appendEntries(t, s, 1, 10)
	for i := uint64(11); i < 30; i++ {
		appendEntries(t, s, i, i+2)
		if err := s.log.DeleteRange(i+1, i+2); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	total := 0
	fs := readFiles(t, dir)
	for _, name := range fs.segments() {
		total += len(fs[name])
	}
	if n := len(fs.segments()); n != 20 || total > 2*testSegment {
		t.Errorf("%d segments, %d bytes", n, total)
	}
	s = open(t, WAL, dir, false)
	defer s.Close()
	ends(t, s, 1, 29)
}

// The beginning of the log is cut off while all of it is in the first segment,
// whose id is 0.
func TestCutWithinTheFirstSegment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	s := open(t, WAL, dir, true)
	vote(t, s, 40, "n1")
	appendEntries(t, s, 1, 30)
	if err := s.log.DeleteRange(1, 10); err != nil {
		t.Fatal(err)
	}
	appendEntries(t, s, 31, 40)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, WAL, dir, false)
	defer s.Close()
	ends(t, s, 11, 40)
}
