package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func open(t *testing.T, kind Kind, path string, fresh bool) *Store {
	t.Helper()
	s, err := Open(config(kind, path, fresh, func(err error) { t.Error("fatal:", err) }))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func config(kind Kind, path string, fresh bool, fatal func(error)) Config {
	return Config{Kind: kind, Path: path, Fresh: fresh, Timeout: 5 * time.Second, Fatal: fatal, segmentBytes: testSegment, StageBytes: 2 * testHalf}
}

// testSegment is a segment of the log in tests: small, so that there are many.
const testSegment = 16 << 10

// testHalf is half a staging file in tests.
const testHalf = 24 << 10

// forKinds runs a test for each kind of log.
func forKinds(t *testing.T, test func(t *testing.T, kind Kind, path string)) {
	for _, kind := range []Kind{Bolt, WAL} {
		t.Run(string(kind), func(t *testing.T) { test(t, kind, filepath.Join(t.TempDir(), "raft.db")) })
	}
}

func entry(i uint64) *raft.Log {
	return &raft.Log{Index: i, Term: 1 + i/100, Data: bytes.Repeat([]byte{byte(i)}, int(i%400))}
}

func appendEntries(t *testing.T, s *Store, from, to uint64) {
	t.Helper()
	for from <= to {
		var es []*raft.Log
		for ; from <= to && len(es) < 100; from++ {
			es = append(es, entry(from))
		}
		if err := s.log.StoreLogs(es); err != nil {
			t.Fatal(err)
		}
	}
}

func ends(t *testing.T, s *Store, first, last uint64) {
	t.Helper()
	f, _ := s.log.FirstIndex()
	l, _ := s.log.LastIndex()
	if f != first || l != last {
		t.Errorf("log is %d to %d, want %d to %d", f, l, first, last)
	}
	for i := first; i <= last && i != 0; i++ {
		var e raft.Log
		if err := s.log.GetLog(i, &e); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(e.Data, entry(i).Data) || e.Term != entry(i).Term {
			t.Fatalf("entry %d differs", i)
		}
	}
}

// persist votes and sets the term the way Raft does.
func vote(t *testing.T, s *Store, term uint64, cand string) {
	t.Helper()
	err := errors.Join(s.vote.SetUint64([]byte(keyTerm), term), s.vote.SetUint64([]byte(keyVoteTerm), term), s.vote.Set([]byte(keyVoteCand), []byte(cand)))
	if err != nil {
		t.Fatal(err)
	}
}

func TestLogAndVoteAreKept(t *testing.T) {
	forKinds(t, func(t *testing.T, kind Kind, path string) {
		s := open(t, kind, path, true)
		if _, err := s.vote.GetUint64([]byte(keyVoteTerm)); err == nil || err.Error() != "not found" {
			t.Errorf("vote of a new store: %v, want the text that Raft looks for", err)
		}
		if _, err := s.vote.GetUint64([]byte(keyTerm)); err == nil || err.Error() != "not found" {
			t.Errorf("term of a new store: %v, want the text that Raft looks for", err)
		}
		vote(t, s, 40, "n1")
		appendEntries(t, s, 1, 3000)
		if err := s.log.DeleteRange(1, 1300); err != nil { // three transactions
			t.Fatal(err)
		}
		if err := s.log.DeleteRange(2001, 3000); err != nil { // two, from the other end
			t.Fatal(err)
		}
		appendEntries(t, s, 2001, 2010)
		s.Close()
		s = open(t, kind, path, false)
		defer s.Close()
		ends(t, s, 1301, 2010)
		term, err := s.vote.GetUint64([]byte(keyVoteTerm))
		cand, err2 := s.vote.Get([]byte(keyVoteCand))
		if err != nil || err2 != nil || term != 40 || string(cand) != "n1" {
			t.Errorf("vote: %d %q %v %v", term, cand, err, err2)
		}
		if err := s.log.DeleteRange(0, 5000); err != nil {
			t.Fatal(err)
		}
		ends(t, s, 0, 0)
		appendEntries(t, s, 9000, 9001)
		ends(t, s, 9000, 9001)
	})
}

// A crash between the two halves of a vote leaves the former vote, whole.
func TestVoteIsOneTransaction(t *testing.T) {
	forKinds(t, func(t *testing.T, kind Kind, path string) {
		s := open(t, kind, path, true)
		vote(t, s, 4, "n1")
		if err := s.vote.SetUint64([]byte(keyVoteTerm), 5); err != nil {
			t.Fatal(err)
		}
		s.Close() // the candidate never comes
		s = open(t, kind, path, false)
		defer s.Close()
		term, _ := s.vote.GetUint64([]byte(keyVoteTerm))
		cand, _ := s.vote.Get([]byte(keyVoteCand))
		if term != 4 || string(cand) != "n1" {
			t.Errorf("vote after the crash: term %d for %q, want term 4 for n1", term, cand)
		}
	})
}

func TestGapIsRefused(t *testing.T) { forKinds(t, gapIsRefused) }

func gapIsRefused(t *testing.T, kind Kind, path string) {
	var fatal error
	s, err := Open(config(kind, path, true, func(err error) { fatal = err }))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	appendEntries(t, s, 1, 3)
	s.Attach()
	returned := false
	done := make(chan struct{})
	go func() { // as Raft would
		defer close(done)
		s.log.StoreLog(entry(5))
		returned = true
	}()
	<-done
	if fatal == nil || returned {
		t.Errorf("fatal %v, returned %v: Raft must not go on after a storage error", fatal, returned)
	}
}

func TestHangIsFatal(t *testing.T) {
	fatal := make(chan error, 1)
	g := &guard{timeout: 20 * time.Millisecond, fatal: func(err error) { fatal <- err }}
	g.armed.Store(true)
	release, done := make(chan struct{}), make(chan struct{})
	returned := false
	go func() {
		defer close(done)
		g.do("syncing", func() error { <-release; return nil })
		returned = true
	}()
	select {
	case <-fatal:
	case <-time.After(5 * time.Second):
		t.Fatal("a hung operation went unnoticed")
	}
	close(release)
	<-done
	if returned {
		t.Error("the operation was reported as done after the node had failed")
	}
}

func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		name              string
		index, term       uint64
		first, last       uint64
		wantFirst, wantOK bool
	}{
		{name: "state within the log", index: 250, term: 3, first: 200, last: 300, wantFirst: true, wantOK: true},
		{name: "state right before the log", index: 199, term: 2, first: 200, last: 300, wantFirst: true, wantOK: true},
		{name: "entries missing", index: 198, term: 2, first: 200, last: 300},
		{name: "log older than an installed snapshot", index: 301, term: 4, first: 200, last: 300, wantOK: true},
		{name: "log never committed", index: 250, term: 9, first: 200, last: 300, wantOK: true},
		{name: "no state yet", index: 0, term: 0, first: 1, last: 300, wantFirst: true, wantOK: true},
	} {
		forKinds(t, func(t *testing.T, kind Kind, path string) {
			t.Log(c.name)
			s := open(t, kind, path, true)
			defer s.Close()
			appendEntries(t, s, c.first, c.last)
			err := s.Reconcile(c.index, c.term)
			if (err == nil) != c.wantOK {
				t.Fatalf("Reconcile: %v", err)
			}
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("%v is not ErrDamaged", err)
			}
			if c.wantOK && c.wantFirst {
				ends(t, s, c.first, c.last)
			} else if c.wantOK {
				ends(t, s, 0, 0)
			}
		})
	}
}

// Whatever byte of the file is changed, the store either does not open or holds
// exactly what was put in.
func TestFlippedBytes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "raft.db")
	s := open(t, Bolt, path, true)
	vote(t, s, 40, "n1")
	appendEntries(t, s, 1, 120)
	settled(t, s)
	s.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	staged, err := os.ReadFile(stagePath(path))
	if err != nil {
		t.Fatal(err)
	}
	used := 1 + bytes.LastIndexFunc(good, func(r rune) bool { return r != 0 })
	good = good[:(used+4095)/4096*4096] // bbolt allocates 16 MiB at a time
	caught, stride := 0, 211
	if testing.Short() {
		stride = 1009
	}
	for at := rand.IntN(stride); at < len(good); at += 1 + rand.IntN(stride) {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << rand.IntN(8)
		path := filepath.Join(dir, fmt.Sprint(at)) // bbolt keeps the lock of a file in which it has panicked
		if err := errors.Join(os.WriteFile(path, bad, 0o600), os.WriteFile(stagePath(path), staged, 0o600)); err != nil {
			t.Fatal(err)
		}
		s, err := Open(config(Bolt, path, false, func(error) {}))
		os.Remove(path)
		os.Remove(stagePath(path))
		if err != nil {
			caught++
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("byte %d: %v is not ErrDamaged", at, err)
			}
			continue
		}
		t.Run(fmt.Sprintf("byte %d", at), func(t *testing.T) {
			ends(t, s, 1, 120)
			term, _ := s.vote.GetUint64([]byte(keyVoteTerm))
			cand, _ := s.vote.Get([]byte(keyVoteCand))
			if term != 40 || string(cand) != "n1" {
				t.Errorf("vote %d %q", term, cand)
			}
		})
		s.Close()
	}
	if caught == 0 {
		t.Error("no flipped byte was caught")
	}
	t.Logf("%d caught in %d bytes", caught, len(good))
}

// raft-boltdb would make a new bucket for one whose name has changed, and a vote
// under another name would be forgotten.
func TestRenamedValues(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := open(t, Bolt, path, true)
	vote(t, s, 40, "n1")
	appendEntries(t, s, 1, 120)
	settled(t, s)
	s.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"logs", "conf", keyVote, keyTerm} {
		bad := bytes.ReplaceAll(good, []byte(name), []byte(name[:len(name)-1]+"!"))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(config(Bolt, path, false, func(error) {})); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q renamed: %v", name, err)
		}
	}
}

func TestTruncatedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := open(t, Bolt, path, true)
	vote(t, s, 40, "n1")
	appendEntries(t, s, 1, 500)
	settled(t, s)
	s.Close()
	if err := os.Truncate(path, 20<<10); err != nil { // a fraction of what is in use
		t.Fatal(err)
	}
	if s, err := Open(config(Bolt, path, false, func(error) {})); err == nil {
		s.Close()
		t.Error("a file that has lost its end was opened")
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Open(Config{Path: filepath.Join(t.TempDir(), "raft.db"), Timeout: time.Second, Fatal: func(error) {}})
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("opening a missing file that must be there: %v", err)
	}
}

func TestDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	d, err := OpenDir(path, "n1", Bolt)
	if err != nil || !d.Fresh {
		t.Fatal(err, d)
	}
	if _, err := OpenDir(path, "n1", Bolt); err == nil {
		t.Error("a directory in use was opened again")
	}
	server := d.Server
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	d.Close()

	if d, err = OpenDir(path, "n1", Bolt); err != nil || d.Fresh || d.Server != server {
		t.Fatalf("reopened: %+v, %v", d, err)
	}
	if _, err := d.StatePath(); !errors.Is(err, ErrDamaged) {
		t.Errorf("state directory missing: %v", err)
	}
	d.Close()

	if _, err := OpenDir(path, "n2", Bolt); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("data of another node: %v", err)
	}
	file := filepath.Join(path, identityFile)
	b, _ := os.ReadFile(file)
	for _, bad := range [][]byte{bytes.Replace(b, []byte(server[:8]), []byte("deadbeef"), 1), b[:len(b)/2], nil} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenDir(path, "n1", Bolt); !errors.Is(err, ErrDamaged) {
			t.Errorf("identity %q: %v, want ErrDamaged", bad, err)
		}
	}
}
