package store

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// gated is a backend that appends nothing while it is shut.
type gated struct {
	backend
	mu sync.Mutex
}

func (g *gated) StoreLogs(entries []*raft.Log) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.backend.StoreLogs(entries)
}

// behind opens a log that is written behind through a gate, which is shut.
func behind(t *testing.T, kind Kind) (s *Store, g *gated, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log")
	s = open(t, kind, path, true)
	vote(t, s, 40, "n1")
	appendEntries(t, s, 1, 10)
	g = &gated{backend: s.entries}
	s.entries = g
	s.WriteBehind(func() bool { return true })
	g.mu.Lock()
	return s, g, path
}

// onDisk is what another process would find.
func onDisk(t *testing.T, s *Store) uint64 {
	t.Helper()
	last, err := s.entries.(*gated).LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// running reports that f has not returned within a moment; ended waits for it.
func start(f func()) (running func() bool, ended func(*testing.T)) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	running = func() bool {
		select {
		case <-done:
			return false
		case <-time.After(20 * time.Millisecond):
			return true
		}
	}
	ended = func(t *testing.T) {
		t.Helper()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("it does not return")
		}
	}
	return running, ended
}

func TestWriteBehind(t *testing.T) {
	for _, kind := range []Kind{Bolt, WAL} {
		t.Run(string(kind), func(t *testing.T) {
			s, g, path := behind(t, kind)
			appendEntries(t, s, 11, 20) // returns although nothing can be written
			ends(t, s, 1, 20)
			if got := onDisk(t, s); got != 10 {
				t.Errorf("on disk up to %d, want 10", got)
			}
			if got := s.Durable(15); got != 10 {
				t.Errorf("Durable(15) = %d, want 10", got)
			}
			if got := s.Durable(7); got != 7 {
				t.Errorf("Durable(7) = %d", got)
			}
			if err := s.Await(10); err != nil {
				t.Error(err)
			}
			running, ended := start(func() { s.Await(11) })
			if !running() {
				t.Error("Await(11) has returned")
			}
			g.mu.Unlock()
			ended(t)
			if err := s.Await(20); err != nil {
				t.Error(err)
			}
			if got := s.Durable(20); got != 20 {
				t.Errorf("Durable(20) = %d", got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, kind, path, false)
			defer s.Close()
			ends(t, s, 1, 20)
		})
	}
}

// A new term, a configuration and a deletion come after all that is behind, and
// are on disk when they return.
func TestWhatWaitsForTheWriter(t *testing.T) {
	for name, op := range map[string]func(*Store) error{
		"term": func(s *Store) error { return s.vote.SetUint64([]byte(keyTerm), 41) },
		"configuration": func(s *Store) error {
			return s.log.StoreLog(&raft.Log{Index: 21, Term: 3, Type: raft.LogConfiguration})
		},
		"front": func(s *Store) error { return s.log.DeleteRange(1, 5) },
		"end":   func(s *Store) error { return s.log.DeleteRange(15, 20) },
	} {
		t.Run(name, func(t *testing.T) {
			s, g, _ := behind(t, Bolt)
			defer s.Close()
			appendEntries(t, s, 11, 20)
			var err error
			running, ended := start(func() { err = op(s) })
			if !running() {
				t.Error("it has not waited")
			}
			g.mu.Unlock()
			if ended(t); err != nil {
				t.Fatal(err)
			}
			want := map[string][2]uint64{"term": {1, 20}, "configuration": {1, 21}, "front": {6, 20}, "end": {1, 14}}[name]
			first, _ := s.log.FirstIndex()
			if last := onDisk(t, s); first != want[0] || last != want[1] {
				t.Errorf("log is %d to %d, want %v", first, last, want)
			}
		})
	}
}

// A vote in a term that is not this server's own comes after SetUint64 of the
// term. So does a follower's every append, which is written at once.
func TestFollowersWriteAtOnce(t *testing.T) {
	s := open(t, Bolt, filepath.Join(t.TempDir(), "log"), true)
	defer s.Close()
	g := &gated{backend: s.entries}
	s.entries = g
	s.WriteBehind(func() bool { return false })
	g.mu.Lock()
	running, ended := start(func() { appendEntries(t, s, 1, 10) })
	if !running() {
		t.Error("append has not waited")
	}
	g.mu.Unlock()
	ended(t)
	if got := onDisk(t, s); got != 10 {
		t.Errorf("on disk up to %d, want 10", got)
	}
}

type broken struct{ backend }

var errBroken = errors.New("input/output error")

func (broken) StoreLogs([]*raft.Log) error { return errBroken }

// When the disk fails, nobody who waits for it goes on.
func TestWriteBehindFails(t *testing.T) {
	fatal := make(chan error, 1)
	s, err := Open(config(Bolt, filepath.Join(t.TempDir(), "log"), true, func(err error) { fatal <- err }))
	if err != nil {
		t.Fatal(err)
	}
	s.entries = broken{s.entries}
	s.Attach()
	s.WriteBehind(func() bool { return true })
	returned := false
	_, ended := start(func() { // ends with its goroutine
		if s.log.StoreLog(entry(1)) == nil {
			s.Await(1)
		}
		returned = true
	})
	ended(t)
	if returned {
		t.Error("somebody was told that the entry is on disk")
	}
	if err := <-fatal; !errors.Is(err, errBroken) {
		t.Errorf("fatal: %v", err)
	}
	if got := s.Durable(1); got != 0 {
		t.Errorf("Durable(1) = %d", got)
	}
}

// Readers and the front's deletion meet a writer that is always behind.
func TestWriteBehindUnderLoad(t *testing.T) {
	for _, kind := range []Kind{Bolt, WAL} {
		t.Run(string(kind), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			s := open(t, kind, path, true)
			vote(t, s, 1000, "n1")
			s.WriteBehind(func() bool { return true })
			const n = 3000
			var wg sync.WaitGroup
			wg.Go(func() {
				for i := uint64(1); i <= n; i += 3 {
					if err := s.log.StoreLogs([]*raft.Log{entry(i), entry(i + 1), entry(i + 2)}); err != nil {
						t.Error(err)
						return
					}
					var e raft.Log
					if err := s.log.GetLog(i+1, &e); err != nil || e.Index != i+1 {
						t.Errorf("entry %d: %v", i+1, err)
						return
					}
				}
			})
			wg.Go(func() {
				for i := uint64(100); i <= n-100; i += 100 {
					for last := uint64(0); last < i+100; last, _ = s.log.LastIndex() {
						time.Sleep(time.Millisecond)
					}
					if err := errors.Join(s.Await(i), s.log.DeleteRange(1, i)); err != nil {
						t.Error(err)
						return
					}
				}
			})
			wg.Wait()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, kind, path, false)
			defer s.Close()
			if first, _ := s.log.FirstIndex(); kind == Bolt && first <= n-100 { // may come back, see stage
				ends(t, s, first, n)
				return
			}
			ends(t, s, n-100+1, n)
		})
	}
}
