package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

const stageFile = stableFile + ".stage"

// stagedLog makes a log in a directory whose appends are staged, in batches of at
// most 10 entries. It is not closed: what is on disk is what a kill leaves.
func stagedLog(t *testing.T, from, to uint64) (s *Store, dir string) {
	t.Helper()
	dir = t.TempDir()
	s = open(t, Bolt, filepath.Join(dir, stableFile), true)
	t.Cleanup(func() { s.Close() })
	vote(t, s, 1000, "n1")
	for i := from; i <= to; i += 10 {
		appendEntries(t, s, i, min(i+9, to))
	}
	return s, dir
}

// killed is the files as they are between two steps.
func killed(t *testing.T, s *Store, dir string) files {
	t.Helper()
	s.log.file.Lock()
	defer s.log.file.Unlock()
	g := s.entries.(*stage)
	g.body.Lock()
	defer g.body.Unlock()
	return readFiles(t, dir)
}

// reopened opens a copy of files.
func (fs files) reopened(t *testing.T) (*Store, error) {
	t.Helper()
	s, err := Open(config(Bolt, filepath.Join(fs.write(t), stableFile), false, func(error) {}))
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

// holds checks that files hold a log that ends at last, begins at first or before
// it, and goes on.
func (fs files) holds(t *testing.T, first, last uint64) {
	t.Helper()
	s, err := fs.reopened(t)
	if err != nil {
		t.Fatal(err)
	}
	if f, _ := s.log.FirstIndex(); f < first {
		first = f // what was cut off the front may come back
	}
	ends(t, s, first, last)
	appendEntries(t, s, last+1, last+5)
	ends(t, s, first, last+5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// settled moves everything that is staged.
func settled(t *testing.T, s *Store) {
	t.Helper()
	if g, ok := s.entries.(*stage); ok {
		if err := g.settle(math.MaxUint64); err != nil {
			t.Fatal(err)
		}
	}
}

// A process is killed between any two steps of moving: nothing is missing.
func TestKilledBetweenSteps(t *testing.T) {
	for what, cut := range map[string]uint64{"": 0, "front in the body": 20, "front beyond the body": 100, "front beyond a half": 1000} {
		s, dir := stagedLog(t, 1, 60)
		settled(t, s)
		g := s.entries.(*stage)
		g.body.Lock() // the mover waits
		for i := uint64(61); g.halves[1].at < 2*sector; i += 10 {
			appendEntries(t, s, i, i+9)
		}
		last := g.end()
		if cut == 1000 {
			cut = g.halves[0].last + 3
		}
		if cut != 0 {
			if err := s.log.DeleteRange(1, cut); err != nil {
				t.Fatal(err)
			}
		}
		readFiles(t, dir).holds(t, cut+1, last)
		steps := 0
		for more := true; more; steps++ {
			var err error
			if more, err = g.step(g.halves[0].last, testHalf/stageParts); err != nil {
				t.Fatal(err)
			}
			readFiles(t, dir).holds(t, cut+1, last)
		}
		g.body.Unlock()
		if err := g.advance(); err != nil {
			t.Fatal(err)
		}
		killed(t, s, dir).holds(t, cut+1, last)
		ends(t, s, cut+1, last)
		if steps < 2 {
			t.Errorf("%s: only %d steps", what, steps)
		}
	}
}

// The same while the end is cut off.
func TestKilledWhileTheEndIsCutOff(t *testing.T) {
	s, dir := stagedLog(t, 1, 120)
	if err := s.log.DeleteRange(1, 7); err != nil {
		t.Fatal(err)
	}
	g := s.entries.(*stage)
	for more := true; more; {
		var err error
		g.body.Lock()
		if more, err = g.step(120, testHalf/stageParts); err != nil {
			t.Fatal(err)
		}
		g.body.Unlock()
		killed(t, s, dir).holds(t, 8, 120)
	}
	if err := s.log.DeleteRange(100, 120); err != nil {
		t.Fatal(err)
	}
	killed(t, s, dir).holds(t, 8, 99)
	appendEntries(t, s, 100, 101)
	killed(t, s, dir).holds(t, 8, 101)
	if err := s.log.DeleteRange(8, 101); err != nil {
		t.Fatal(err)
	}
	if s, err := killed(t, s, dir).reopened(t); err != nil {
		t.Error(err)
	} else {
		ends(t, s, 0, 0)
	}
}

// Whatever is done, in whatever order, and whenever the process is killed: the
// log is what it was, but that some of what was cut off its front may be back.
func TestStageAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	s, dir := stagedLog(t, 1, 0)
	term := uint64(1)
	var model []*raft.Log
	first := func() uint64 { return model[0].Index }
	next := uint64(1)
	for range 400 {
		switch what := rng.IntN(20); {
		case what < 12:
			var es []*raft.Log
			for range 1 + rng.IntN(20) {
				es = append(es, &raft.Log{Index: next, Term: term, Data: bytes.Repeat(fmt.Append(nil, term, next, " "), rng.IntN(60))})
				next++
			}
			if err := s.log.StoreLogs(es); err != nil {
				t.Fatal(err)
			}
			model = append(model, es...)
		case what < 15 && len(model) > 1: // behind a checkpoint
			n := rng.IntN(len(model) - 1)
			if err := s.log.DeleteRange(first(), model[n].Index); err != nil {
				t.Fatal(err)
			}
			model = model[n+1:]
		case what < 16 && len(model) > 1: // a new leader
			n := max(0, len(model)-1-rng.IntN(40))
			if err := s.log.DeleteRange(model[n].Index, next-1); err != nil {
				t.Fatal(err)
			}
			next, model, term = model[n].Index, model[:n:n], term+1
		case what < 17: // a snapshot, seldom
			if len(model) == 0 || rng.IntN(4) > 0 {
				continue
			}
			if err := s.log.DeleteRange(first(), next-1); err != nil {
				t.Fatal(err)
			}
			next, model = next+uint64(rng.IntN(50)), nil
		default:
			fs := killed(t, s, dir)
			s.Close()
			dir = fs.write(t)
			s = open(t, Bolt, filepath.Join(dir, stableFile), false)
			matches(t, s, model)
			if f, _ := s.log.FirstIndex(); len(model) > 0 && f < first() { // for the next comparison
				if err := s.log.DeleteRange(f, first()-1); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	s.Close()
}

// matches compares a log with what it should hold.
func matches(t *testing.T, s *Store, model []*raft.Log) {
	t.Helper()
	last, _ := s.log.LastIndex()
	if len(model) == 0 {
		if last != 0 {
			t.Fatalf("the log ends at %d, want it empty", last)
		}
		return
	}
	if f, _ := s.log.FirstIndex(); f == 0 || f > model[0].Index || last != model[len(model)-1].Index {
		t.Fatalf("log is %d to %d, want %d to %d", f, last, model[0].Index, model[len(model)-1].Index)
	}
	for _, want := range model {
		var e raft.Log
		if err := s.log.GetLog(want.Index, &e); err != nil || !same(&e, want) {
			t.Fatalf("entry %d: %v", want.Index, err)
		}
	}
}

// Whatever byte of the staging file is changed, the store either does not open or
// holds exactly what was put in.
func TestFlippedBytesInStage(t *testing.T) {
	s, dir := stagedLog(t, 1, 300)
	good := killed(t, s, dir)
	b := good[stageFile]
	caught, missed := 0, 0
	stride := 401
	if testing.Short() {
		stride = 1999
	}
	for at := rand.IntN(stride); at < len(b); at += 1 + rand.IntN(stride) {
		bad := bytes.Clone(b)
		bad[at] ^= 1 << rand.IntN(8)
		s, err := good.with(stageFile, bad).reopened(t)
		if err != nil {
			caught++
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("byte %d: %v is not ErrDamaged", at, err)
			}
			continue
		}
		missed++
		ends(t, s, 1, 300)
		s.Close()
	}
	t.Logf("%d caught, %d without effect", caught, missed)
	if caught == 0 {
		t.Error("no flipped byte was caught")
	}
}

// Each bit of what was written counts, the last batch's too.
func TestEveryByteOfAHalf(t *testing.T) {
	s, dir := stagedLog(t, 1, 35)
	b := killed(t, s, dir)[stageFile]
	gen := s.entries.(*stage).halves[0].gen
	for at := range used(b) {
		bad := bytes.Clone(b)
		bad[at] ^= 1 << rand.IntN(8)
		if _, _, err := readHalf(bad[:testHalf], 0, gen); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d: %v", at, err)
		}
	}
}

// torn is a file of which the last write is there in part: some sectors are.
func torn(before, after []byte) []byte {
	b := bytes.Clone(before)
	for at := 0; at < len(b); at += sector {
		if rand.IntN(2) == 0 {
			copy(b[at:at+sector], after[at:])
		}
	}
	return b
}

// A batch that the machine did not finish writing is forgotten, and nothing else;
// what is left of it does not get into the next one, which may not be finished either.
func TestTornStage(t *testing.T) {
	for range 12 {
		s, dir := stagedLog(t, 1, 10)
		g := s.entries.(*stage)
		g.body.Lock() // nothing is moved: what is written goes to the newest half, also after a start
		first := uint64(11)
		for now := g.now; g.now == now; first += 10 {
			appendEntries(t, s, first, first+9)
		}
		last := first + 9
		before := readFiles(t, dir)
		var others []*raft.Log // as long as those that will be there in the end
		for i := first; i <= last; i++ {
			e := entry(i)
			e.Data = bytes.Repeat([]byte("x"), len(e.Data))
			others = append(others, e)
		}
		if err := s.log.StoreLogs(others); err != nil {
			t.Fatal(err)
		}
		after := readFiles(t, dir)
		g.body.Unlock()
		s.Close()
		if !bytes.Equal(before[stableFile], after[stableFile]) {
			t.Fatal("the staging file is not all that was written to")
		}
		left := torn(before[stageFile], after[stageFile])
		if bytes.Equal(left, after[stageFile]) {
			continue
		}
		again, err := before.with(stageFile, left).reopened(t)
		if err != nil {
			t.Fatal(err)
		}
		ends(t, again, 1, first-1)
		clean := killed(t, again, filepath.Dir(again.entries.(*stage).f.Name()))
		appendEntries(t, again, first, last)
		after = killed(t, again, filepath.Dir(again.entries.(*stage).f.Name()))
		again.Close()
		if left := torn(clean[stageFile], after[stageFile]); !bytes.Equal(left, after[stageFile]) {
			clean.with(stageFile, left).holds(t, 1, first-1)
		}
		after.holds(t, 1, last)
	}
}

func TestMissingStage(t *testing.T) {
	s, dir := stagedLog(t, 1, 100)
	good := killed(t, s, dir)
	b := good[stageFile]
	without := maps.Clone(good)
	delete(without, stageFile)
	lost := bytes.Clone(b) // the first batch
	clear(lost[:sector])
	for what, bad := range map[string]files{
		"missing": without, "empty": good.with(stageFile, nil), "cut off": good.with(stageFile, b[:len(b)-sector]),
		"longer": good.with(stageFile, append(bytes.Clone(b), 0)), "sector lost": good.with(stageFile, lost),
		"halves exchanged": good.with(stageFile, append(bytes.Clone(b[testHalf:]), b[:testHalf]...)),
	} {
		if _, err := bad.reopened(t); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What is both staged and in raft-boltdb must be the same, and they must join.
func TestOverlap(t *testing.T) {
	other := func(i uint64) *raft.Log { e := entry(i); e.Data = append(e.Data, 'x'); return e }
	for _, c := range []struct {
		name     string
		from, to uint64 // in raft-boltdb; staged are 20 to 40
		entry    func(uint64) *raft.Log
		first    uint64 // 0: damaged
	}{
		{"nothing", 1, 0, entry, 20},
		{"joins", 5, 19, entry, 5},
		{"the same", 5, 30, entry, 5},
		{"all", 20, 40, entry, 20},
		{"front cut off", 25, 30, entry, 25},
		{"differs", 5, 30, other, 0},
		{"last one differs", 20, 20, other, 0},
		{"gap", 5, 18, entry, 0},
		{"goes further", 20, 41, entry, 0},
	} {
		s, dir := stagedLog(t, 20, 40)
		at := killed(t, s, dir).write(t)
		path := filepath.Join(at, stableFile)
		db, err := openDB(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := c.from; i <= c.to; i++ {
			e := c.entry(i)
			if err := errors.Join(seal(e), db.StoreLog(e)); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := Open(config(Bolt, path, false, func(error) {}))
		switch {
		case err != nil && c.first != 0:
			t.Errorf("%s: %v", c.name, err)
		case err == nil && c.first == 0:
			t.Errorf("%s: it was opened", c.name)
		case err != nil && !errors.Is(err, ErrDamaged):
			t.Errorf("%s: %v is not ErrDamaged", c.name, err)
		case err == nil:
			ends(t, again, c.first, 40)
		}
		if err == nil {
			again.Close()
		}
	}
}

// Appends wait for a half that has not been moved, and no longer.
func TestAppendsWaitForRoom(t *testing.T) {
	s, _ := stagedLog(t, 1, 0)
	g := s.entries.(*stage)
	g.body.Lock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		appendEntries(t, s, 1, 400)
	}()
	<-filled2(g) // both halves are
	if last, _ := s.log.LastIndex(); last >= 400 {
		t.Error("there is room for everything")
	}
	g.body.Unlock()
	<-done
	ends(t, s, 1, 400)
}

// filled2 tells when nothing more can be appended.
func filled2(g *stage) <-chan struct{} {
	full := make(chan struct{})
	go func() {
		defer close(full)
		g.mu.Lock()
		defer g.mu.Unlock()
		for g.halves[0].at == 0 || g.halves[1].at == 0 || fitting([]*raft.Log{{Data: make([]byte, 400)}}, g.half, g.half-g.halves[g.now].at) > 0 {
			g.mu.Unlock()
			g.mu.Lock()
		}
	}()
	return full
}

// An entry that is larger than a half does not fail.
func TestLargeEntry(t *testing.T) {
	s, dir := stagedLog(t, 1, 30)
	if err := s.log.DeleteRange(1, 5); err != nil {
		t.Fatal(err)
	}
	large := &raft.Log{Index: 31, Term: 1, Data: make([]byte, 2*testHalf)}
	if err := s.log.StoreLog(large); err != nil {
		t.Fatal(err)
	}
	appendEntries(t, s, 32, 99)
	s, err := killed(t, s, dir).reopened(t)
	if err != nil {
		t.Fatal(err)
	}
	var e raft.Log
	if err := s.log.GetLog(31, &e); err != nil || !same(&e, large) {
		t.Errorf("%v", err)
	}
	if last, _ := s.log.LastIndex(); last != 99 {
		t.Errorf("the log ends at %d", last)
	}
}

// A log from before there was a staging file opens as it is; so does one whose
// staging file had another size.
func TestStageIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), stableFile)
	olderLog(t, path)
	last := uint64(49)
	for _, half := range []int64{testHalf, testHalf, 2 * testHalf, testHalf} {
		cfg := config(Bolt, path, false, func(error) {})
		cfg.StageBytes = 2 * half
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ends(t, s, 7, last)
		appendEntries(t, s, last+1, last+60)
		last += 60
		s.Close()
		if stat, err := os.Stat(path + ".stage"); err != nil || stat.Size() != 2*half {
			t.Errorf("staging file: %v %v", stat, err)
		}
	}
}

// A directory from before there was a staging file is refused, by its format, to
// programs that do not know of one, from when it has one.
func TestOlderDirectory(t *testing.T) {
	path := nodeDir(t, Bolt, true)
	log := (&Dir{path: path}).logPath(Bolt)
	if err := removeStore(log); err != nil {
		t.Fatal(err)
	}
	olderLog(t, log)
	id := identity{Format: formatBolt, Name: "n1", Server: "s"}
	id.Checksum = id.sum()
	b, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, identityFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d, err := OpenDir(path, "n1", Bolt)
		if err != nil {
			t.Fatal(err)
		}
		s, err := d.OpenStore(Config{Timeout: 5 * time.Second, Fatal: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		ends(t, s, 7, 49)
		if err := errors.Join(s.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
		if d.Server != "s" || d.format != formatStaged {
			t.Errorf("%+v", d)
		}
	}
}

// olderLog makes a log of 7 to 49 as there was before the staging file.
func olderLog(t *testing.T, path string) {
	t.Helper()
	if err := create(path); err != nil {
		t.Fatal(err)
	}
	db, err := openDB(path)
	if err != nil {
		t.Fatal(err)
	}
	term := binary.BigEndian.AppendUint64(nil, 9)
	if err := db.Set([]byte(keyTerm), sealValue([]byte(keyTerm), term)); err != nil {
		t.Fatal(err)
	}
	for i := uint64(7); i < 50; i++ {
		e := entry(i)
		if err := errors.Join(seal(e), db.StoreLog(e)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
