package fsm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// TestPages: long answers come in pages that fit a frame, wherever the mail is.
func TestPages(t *testing.T) {
	f := start(t, Config{CheckpointEvery: time.Hour})
	l := newLogger(t, f)
	l.cmd(parley.CreateUser{Name: "bob"})
	for i := range 900 {
		if i%300 == 299 {
			l.checkpoint()
		}
		l.cmd(parley.Send{From: "ann", To: "bob", Body: fmt.Sprintf("%d %s", i+1, strings.Repeat("x", i))})
	}
	l.cmd(parley.Send{To: "bob", Body: strings.Repeat("y", 64<<10)})
	next, pages := uint64(1), 0
	for after := (parley.Cursor{}); ; pages++ {
		r := f.Inbox(parley.Inbox{User: "bob", After: after})
		size := 0
		for _, m := range r.Messages {
			if size += len(m.Body) + len(m.From); uint64(m.ID) != next || next <= 900 && !strings.HasPrefix(m.Body, fmt.Sprint(next)+" ") {
				t.Fatalf("message %d where %d was due", m.ID, next)
			}
			after = m.Cursor
			next++
		}
		if len(r.Messages) == 0 || len(r.Messages) > pageMessages || size > pageBytes && len(r.Messages) > 1 {
			t.Fatalf("%d messages of %d bytes", len(r.Messages), size)
		}
		if !r.More {
			break
		}
	}
	if next != 902 || pages < 6 {
		t.Errorf("%d messages in %d pages", next-1, pages)
	}

	for i := range 5000 {
		if i == 2500 {
			l.checkpoint()
		}
		l.cmd(parley.CreateUser{Name: fmt.Sprintf("User-%04d-%s", i, strings.Repeat("z", 20))})
	}
	for _, pattern := range []string{"", "User", "^User-", "z$"} {
		n, last, pages := 0, "", 0
		for more := true; more; pages++ {
			r := f.Users(parley.Users{Pattern: pattern, After: last})
			for _, name := range r.Names {
				if name <= last && last != "bob" {
					t.Fatalf("%s after %s", name, last)
				}
				last = name
			}
			n, more = n+len(r.Names), r.More
		}
		if want := 5000; n != want && !(pattern == "" && n == want+1) || pages < 3 {
			t.Errorf("pattern %q: %d names in %d pages", pattern, n, pages)
		}
	}
}

// TestRestoreIsCrashSafe: until Restore, what was received does not count, and
// a crash leaves nothing of it.
func TestRestoreIsCrashSafe(t *testing.T) {
	source := start(t, Config{})
	ls := newLogger(t, source)
	for i := range 5 {
		ls.cmd(parley.CreateUser{Name: fmt.Sprintf("new%d", i)})
	}
	ls.checkpoint()
	f := start(t, Config{})
	newLogger(t, f).cmd(parley.CreateUser{Name: "old"})
	before := mustDigest(t, f)

	meta, r, err := source.Snapshots().Open(checkpointID)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	crash := func(want string) {
		t.Helper()
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(f.cfg.Dir)); err != nil {
			t.Fatal(err)
		}
		g := start(t, Config{Dir: dir})
		if got := mustDigest(t, g); got != want {
			t.Errorf("after a crash: %s, want %s", dump(t, g), want)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*"+tempSuffix)); left != nil {
			t.Errorf("left behind: %v", left)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// Broken off, cut, changed on the way.
	sink, err := f.Snapshots().Create(1, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write(data[:len(data)/2]); err != nil {
		t.Fatal(err)
	}
	crash(before)
	if err := sink.Cancel(); err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{
		"cut":     data[:len(data)-1],
		"changed": append(append([]byte(nil), data[:9000]...), append([]byte{data[9000] ^ 1}, data[9001:]...)...),
		"empty":   data[:5],
	} {
		sink, _ := f.Snapshots().Create(1, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
		if _, err := sink.Write(bad); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err == nil {
			t.Errorf("%s: accepted", what)
		}
		if left, _ := filepath.Glob(filepath.Join(f.cfg.Dir, "*"+tempSuffix)); left != nil {
			t.Errorf("%s: left behind: %v", what, left)
		}
	}
	id := receive(t, f, meta, strings.NewReader(string(data)))
	crash(before)
	_, r, err = f.Snapshots().Open(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Restore(r); err != nil {
		t.Fatal(err)
	}
	crash(mustDigest(t, source))

	// The same snapshot once more, and an older one: the state stays.
	newLogger(t, f).cmd(parley.CreateUser{Name: "newest"})
	before = mustDigest(t, f)
	_, r, err = f.Snapshots().Open(receive(t, f, meta, strings.NewReader(string(data))))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Restore(r); !errors.Is(err, errOld) { // with nil, Raft would go back to it
		t.Errorf("an older snapshot: %v", err)
	}
	if got := mustDigest(t, f); got != before {
		t.Error("an older snapshot replaced the state")
	}
	if left, _ := filepath.Glob(filepath.Join(f.cfg.Dir, "*"+tempSuffix)); left != nil {
		t.Errorf("left behind: %v", left)
	}
	// A stream that is no sink of ours.
	if err := f.Restore(io.NopCloser(strings.NewReader(string(data)))); err != nil {
		t.Error(err)
	}
	if got := mustDigest(t, f); got != before {
		t.Error("an older snapshot replaced the state")
	}
}

func TestNewNodeHasNoSnapshot(t *testing.T) {
	f := start(t, Config{})
	if list, err := f.Snapshots().List(); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	newLogger(t, f).cmd(parley.CreateUser{Name: "bob"})
	if list, err := f.Snapshots().List(); err != nil || len(list) != 0 {
		t.Errorf("before a checkpoint: %v %v", list, err)
	}
	if err := f.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := f.Snapshots().List(); err != nil || len(list) != 1 || list[0].Index != 1 || list[0].Term != 1 {
		t.Errorf("%v %v", list, err)
	}
}

func TestOneProcessOnly(t *testing.T) {
	f := start(t, Config{})
	if g, err := Open(Config{Dir: f.cfg.Dir}); err == nil {
		g.Close()
		t.Error("opened twice")
	}
}
