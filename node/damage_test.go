package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-chat/parley"
)

// Whatever is wrong with the data is found at the start, and the error says what
// to do.
func TestDamagedData(t *testing.T) {
	marker := []byte("a text that is easily found in a file")
	forStores(t, func(t *testing.T, on func(*Config)) {
		var cfg Config
		on(&cfg)
		stable := filepath.Join("group-0", "raft.db")
		entries := func(t *testing.T, dir string) string { return filepath.Join(dir, stable+".stage") }
		if cfg.LogStore == LogWAL {
			stable = filepath.Join("group-0", "raft-wal", "raft.db")
			entries = func(t *testing.T, dir string) string { return segment(t, filepath.Join(dir, "group-0", "raft-wal")) }
		}
		for _, damage := range []struct {
			name string
			do   func(t *testing.T, dir string)
		}{
			{"byte in the log", func(t *testing.T, dir string) { flip(t, entries(t, dir), marker) }},
			{"vote", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, stable), []byte("Vote")) }},
			{"term", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, stable), []byte("CurrentTerm")) }},
			{"state", func(t *testing.T, dir string) { flip(t, largest(t, filepath.Join(dir, "group-0", "state")), marker) }},
			{"identity", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "node.json"), []byte(`"server": "`)) }},
			{"no log", func(t *testing.T, dir string) { remove(t, entries(t, dir)) }},
			{"no vote", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, stable)) }},
			{"no state", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "group-0", "state")) }},
			{"no identity", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "node.json")) }},
			{"log cut off", func(t *testing.T, dir string) {
				if err := os.Truncate(entries(t, dir), 12<<10); err != nil {
					t.Fatal(err)
				}
			}},
		} {
			t.Run(damage.name, func(t *testing.T) { damaged(t, on, string(marker), damage.do) })
		}
	})
}

// damaged damages what a node has on disk, and wants it to be found.
func damaged(t *testing.T, on func(*Config), text string, damage func(t *testing.T, dir string)) {
	c := newCluster(t, 1, on)
	must(t, c.leader(), parley.CreateUser{Name: "anna"})
	must(t, c.leader(), parley.Send{To: "anna", Body: text})
	if err := c.nodes["n1"].fsm.Checkpoint(deadline(t, patience)); err != nil {
		t.Fatal(err)
	}
	c.stop("n1")
	damage(t, filepath.Join(c.dir, "n1"))
	n, err := Open(context.Background(), c.config("n1"))
	if err == nil {
		n.Shutdown(deadline(t, patience))
		t.Fatal("it was not found")
	}
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "--join") {
		t.Errorf("%v: want ErrDamaged and what to do", err)
	}
	t.Log(err)
}

// segment is the only file of a log in segments.
func segment(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(found) != 1 {
		t.Fatalf("segments: %v %v", found, err)
	}
	return found[0]
}

// flip changes the byte after each occurrence of a text in a file.
func flip(t *testing.T, path string, text []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for at := 0; ; found++ {
		i := bytes.Index(b[at:], text)
		if i < 0 {
			break
		}
		at += i + len(text)
		if at < len(b) {
			b[at] ^= 0x10
		}
	}
	if found == 0 {
		t.Fatalf("no %q in %s", text, path)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func largest(t *testing.T, dir string) (path string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(-1)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Size() > size {
			path, size = filepath.Join(dir, e.Name()), info.Size()
		}
	}
	return path
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// A node whose storage fails while it runs ends, and says so, and a leader stops
// leading.
func TestFailingDisk(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.leader()
	must(t, leader, parley.CreateUser{Name: "anna"})
	if err := leader.store.Close(); err != nil { // every operation fails from now on
		t.Fatal(err)
	}
	_, err := parley.Do(deadline(t, patience), leader, parley.Request{Command: parley.CreateUser{Name: "bert"}})
	if err == nil {
		t.Error("a command was acknowledged by a node whose disk has failed")
	}
	select {
	case <-leader.Done():
	case <-deadline(t, patience).Done():
		t.Fatal("the node goes on")
	}
	if leader.Err() == nil {
		t.Error("no error")
	}
	must(t, c.leader(c.others(leader.cfg.Name)...), parley.CreateUser{Name: "carl"})
}

// The log moves to the other store and back, between two runs of the cluster; a
// node that is started with the wrong one says what to do, and is none the worse.
func TestConvertedLog(t *testing.T) {
	c := newCluster(t, 3, nil)
	was := c.nodes["n1"].cfg.LogStore
	must(t, c.leader(), parley.CreateUser{Name: "box"})
	sent := 0
	for _, to := range []LogStore{LogWAL, LogBolt} {
		for range 20 {
			sent++
			must(t, c.leader(), parley.Send{To: "box", Body: "x"})
		}
		for _, name := range c.names {
			c.stop(name)
		}
		c.tune = func(cfg *Config) { cfg.LogStore = to }
		if to != was {
			if _, err := Open(context.Background(), c.config("n1")); err == nil || !strings.Contains(err.Error(), "convert-log") {
				t.Fatalf("%s was opened as %s: %v", was, to, err)
			}
		}
		was = to
		for _, name := range c.names {
			if _, err := ConvertLog(filepath.Join(c.dir, name), to); err != nil {
				t.Fatal(err)
			}
			c.start(name)
		}
		if mail := inbox(t, c.leader(), "box"); len(mail) != sent {
			t.Errorf("%d messages on %s, want %d", len(mail), to, sent)
		}
	}
	c.sameDigest()
}
