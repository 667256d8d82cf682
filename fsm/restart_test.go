package fsm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley"
)

// index writes down what is in memory of users and of where their mail is.
func index(f *FSM) string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var lines []string
	table := f.st.directory
	for _, room := range table.rooms {
		for i := range room.accounts {
			if a := &room.accounts[i]; a.key != 0 {
				name, shown := table.names(a)
				lines = append(lines, fmt.Sprintln(name, shown, a.user, positionsOf(table, a)))
			}
		}
	}
	slices.Sort(lines)
	return fmt.Sprintln(lines, f.st.counts)
}

func positionsOf(t *directory, a *account) (all []uint64) {
	for i := range t.waiting(a) {
		all = append(all, t.position(a, i))
	}
	return all
}

// TestIndexIsFoundAgain: what a restart makes of the checkpoint is what was in
// memory before, wherever the checkpoints were.
func TestIndexIsFoundAgain(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 22))
		h := generate(t, rng, 400)
		dir := t.TempDir()
		f := start(t, Config{Dir: dir, CheckpointEvery: time.Hour})
		unread := uint64(0)
		for i := 0; i < len(h.logs); {
			n := min(1+rng.IntN(60), len(h.logs)-i)
			f.ApplyBatch(h.logs[i : i+n])
			if i += n; rng.IntN(3) == 0 {
				if err := f.Checkpoint(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if rng.IntN(3) > 0 && i < len(h.logs) {
				continue
			}
			f.mu.Lock()
			f.st.counts.sessions, f.st.counts.members = uint64(len(f.st.sessions)), uint64(len(f.st.members)) // as cut does
			f.mu.Unlock()
			before := index(f)
			unread = max(unread, f.st.unread)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			f = start(t, Config{Dir: dir, CheckpointEvery: time.Hour})
			if after := index(f); after != before {
				t.Fatalf("seed %d: was\n%s\nis\n%s", seed, before, after)
			}
		}
		if unread < 20 {
			t.Errorf("seed %d: at most %d unread messages", seed, unread)
		}
	}
}

// TestNothingIsLeft: of mail that was acknowledged, or whose user was deleted,
// neither the file nor the memory keeps anything, wherever it was at that time.
func TestNothingIsLeft(t *testing.T) {
	const messages = 2000
	for _, what := range []string{"ack", "delete"} {
		for _, where := range []string{"active", "older", "file"} {
			t.Run(what+"/"+where, func(t *testing.T) {
				f := start(t, Config{CheckpointEvery: time.Hour})
				l := newLogger(t, f)
				l.cmd(parley.CreateUser{Name: "ann"})
				l.cmd(parley.CreateUser{Name: "bob"})
				for range messages {
					l.cmd(parley.Send{From: "ann", To: "bob", Body: "secret"})
				}
				l.cmd(parley.Send{From: "bob", To: "ann", Body: "keep"})
				for range map[string]int{"active": 0, "older": 1, "file": 3}[where] {
					l.checkpoint()
					l.cmd(parley.OpenSession{})
				}
				if what == "ack" {
					l.cmd(parley.Ack{User: "bob", UpTo: parley.Cursor{ID: messages - 1}})
					l.cmd(parley.Ack{User: "bob", UpTo: parley.Cursor{ID: messages}})
				} else {
					l.cmd(parley.DeleteUser{Name: "bob"})
				}
				l.checkpoint()
				if err := f.st.db.View(func(tx *bbolt.Tx) error {
					return tx.Bucket(bucketMail.name).ForEach(func(k, v []byte) error {
						if !strings.HasSuffix(string(v), "keep") {
							return fmt.Errorf("%x is left", k)
						}
						return nil
					})
				}); err != nil {
					t.Error(err)
				}
				if a := f.st.directory.get("bob"); a != nil && a.many != 0 {
					t.Errorf("room for %d positions for an empty mailbox", cap(f.st.directory.queues[a.many-1].buf))
				}
				if f.st.unread != 1 {
					t.Errorf("%d unread messages", f.st.unread)
				}
			})
		}
	}
}

// TestOtherFormat: a checkpoint of another format is refused, with what to do.
func TestOtherFormat(t *testing.T) {
	for _, format := range []byte{1, formatVersion + 1} {
		dir := t.TempDir()
		f := start(t, Config{Dir: dir})
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		db, err := openDB(filepath.Join(dir, checkpointName), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bbolt.Tx) error {
			w := writer{tx: tx}
			w.put(tx.Bucket(bucketMeta.name), bucketMeta, keyFormat, append(w.value(), format))
			return w.err
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = Open(Config{Dir: dir})
		if want := fmt.Sprintf("has format %d and this program knows only %d: run the version", format, formatVersion); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("format %d: %v", format, err)
		}
	}
}

// BenchmarkOpen opens a state of a million users with three unread messages of
// 100 bytes each, of whose keys the index is made.
func BenchmarkOpen(b *testing.B) {
	const users, messages = 1_000_000, 3
	dir := b.TempDir()
	w := newWorldAt(b, dir, users)
	for range users * messages / 256 {
		w.apply(w.entries(1, load{})[0])
	}
	if err := w.f.Close(); err != nil {
		b.Fatal(err)
	}
	info, err := os.Stat(w.f.path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	for b.Loop() {
		f, err := Open(Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
