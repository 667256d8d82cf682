package node

import (
	"path/filepath"
	"testing"

	"github.com/parley-chat/parley"
)

// The logs of members that have stopped are the same, in the store that each has.
func TestReadLog(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.stop("n1")
	other := LogWAL
	if _, err := ConvertLog(filepath.Join(c.dir, "n1"), other); err != nil {
		t.Fatal(err)
	}
	c.start("n1", func(cfg *Config) { cfg.LogStore = other })
	for range 5 {
		must(t, c.leader(), parley.CreateUser{Name: "anna"})
		must(t, c.leader(), parley.DeleteUser{Name: "anna"})
	}
	c.sameDigest()
	if err := ReadLog(filepath.Join(c.dir, "n1"), func(LogEntry) {}); err == nil {
		t.Error("the log of a node that runs was read")
	}
	for _, name := range c.names {
		c.kill(name)
	}
	var first []LogEntry
	for _, name := range c.names {
		var log []LogEntry
		if err := ReadLog(filepath.Join(c.dir, name), func(e LogEntry) { log = append(log, e) }); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = log
		}
		if len(log) < 10 || log[0].Index != 1 {
			t.Fatalf("%s has %d entries", name, len(log))
		}
		for i := range min(len(first), len(log)) {
			if log[i] != first[i] {
				t.Fatalf("%s has %+v, n1 %+v", name, log[i], first[i])
			}
		}
	}
	if err := ReadLog(t.TempDir(), func(LogEntry) {}); err == nil {
		t.Error("a log was read where there is none")
	}
}
