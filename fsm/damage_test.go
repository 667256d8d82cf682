package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// filled makes a checkpoint file of several pages and returns its bytes and the
// digests of its last two states.
func filled(t testing.TB) (file []byte, digests map[uint64]string) {
	t.Helper()
	f := start(t, Config{CheckpointEvery: time.Hour})
	l := newLogger(t, f)
	for _, name := range []string{"ann", "bob", "cy"} {
		l.cmd(parley.CreateUser{Name: name})
		for range 60 {
			l.cmd(parley.Send{From: "ann", To: name, Body: strings.Repeat("text ", 20)})
		}
	}
	for _, name := range []string{"dan", "eve"} {
		l.cmd(parley.StoreUser{Name: name, Verifier: strings.Repeat("v", 97)})
	}
	l.do(parley.Request{As: &parley.Actor{Admin: true}, Command: parley.AddInvite{Invite: parley.Invite{Hash: parley.Hash{1}}}})
	l.cmd(parley.Send{From: "ann", To: "bob", Body: strings.Repeat("large ", 3000)}) // overflow pages
	s := l.cmd(parley.OpenSession{}).Session
	l.do(in(s, 1, 0, parley.Ack{User: "bob", UpTo: parley.Cursor{ID: 7}}))
	digests = map[uint64]string{f.Applied(): mustDigest(t, f)}
	l.cmd(parley.Ack{User: "cy", UpTo: parley.Cursor{ID: 3}})
	digests[f.Applied()] = mustDigest(t, f)
	file, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := openPages(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	return file[:int64(pages.pages)*pages.pageSize], digests
}

// openFile opens a state whose checkpoint has these bytes.
func openFile(t *testing.T, file []byte) (*FSM, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, checkpointName), file, 0o600); err != nil {
		t.Fatal(err)
	}
	return Open(Config{Dir: dir, MapBytes: 64 << 20})
}

// TestDamagedFile flips bits all over a checkpoint: whatever is not noticed must
// not matter. A damaged meta page may bring back the checkpoint before.
func TestDamagedFile(t *testing.T) {
	file, digests := filled(t)
	used := len(file)
	rng := rand.New(rand.NewPCG(1, 1))
	noticed := 0
	const tries = 600
	for i := range tries {
		at := rng.IntN(used)
		if i < 100 {
			at = rng.IntN(96) + used/4096*i/100*4096 // page headers, and the first elements
		}
		bit := byte(1) << rng.IntN(8)
		file[at] ^= bit
		f, err := openFile(t, file)
		file[at] ^= bit
		if err != nil {
			// Not by bbolt, which panics.
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "verify") || !strings.Contains(err.Error(), "move its data directory away") {
				t.Fatalf("byte %d: %v", at, err)
			}
			noticed++
			continue
		}
		index, sum, err := f.Digest()
		if err != nil || digests[index] != sum {
			t.Errorf("byte %d: digest at %d: %s, want %s, %v", at, index, sum, digests[index], err)
		}
		f.Close()
	}
	if noticed < tries/3 { // the rest is free or unused space
		t.Errorf("only %d of %d noticed", noticed, tries)
	}
	t.Logf("%d of %d noticed", noticed, tries)
}

func TestShortFile(t *testing.T) {
	file, _ := filled(t)
	for _, n := range []int{0, 1, 100, 4096, 8192, 8193, 20_000, 40_000} {
		if f, err := openFile(t, file[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d: %v", n, err)
			if err == nil {
				f.Close()
			}
		}
	}
}

// TestMissingRecords: records that are gone without a trace in bbolt's own
// structure are missed by Open.
func TestMissingRecords(t *testing.T) {
	file, _ := filled(t)
	for _, b := range buckets {
		for _, which := range []string{"first", "last"} {
			dir := t.TempDir()
			path := filepath.Join(dir, checkpointName)
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			if removeRecord(t, path, b, which == "last") {
				if _, err := Open(Config{Dir: dir}); !errors.Is(err, ErrDamaged) {
					t.Errorf("%s record of %s removed: %v", which, b.name, err)
				}
			}
		}
	}
}

func removeRecord(t *testing.T, path string, b bucket, last bool) bool {
	t.Helper()
	db, err := openDB(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	c := tx.Bucket(b.name).Cursor()
	k, _ := c.First()
	if last {
		k, _ = c.Last()
	}
	if k == nil {
		tx.Rollback()
		return false
	}
	if err := errors.Join(c.Delete(), tx.Commit()); err != nil {
		t.Fatal(err)
	}
	return true
}

// failing opens an FSM and returns where its fatal error goes.
func failing(t *testing.T, cfg Config) (*FSM, <-chan error) {
	fatal := make(chan error, 10)
	cfg.Fatal = func(err error) { fatal <- err }
	return start(t, cfg), fatal
}

// refuses checks that nothing goes on after a failure.
func refuses(t *testing.T, f *FSM, fatal <-chan error, want error) {
	t.Helper()
	eventually(t, "fatal error", func() bool { return f.Err() != nil })
	if err := <-fatal; !errors.Is(err, want) || !errors.Is(f.Err(), want) {
		t.Fatalf("fatal: %v, Err %v, want %v", err, f.Err(), want)
	}
	at := f.Applied()
	if err, ok := f.Apply(entryOf(t, at+1, epoch)).(error); !ok || !errors.Is(err, want) {
		t.Errorf("apply after a failure: %v", err)
	}
	if r := f.Inbox(parley.Inbox{User: "bob"}); r.Code.IsAnswer() {
		t.Errorf("inbox after a failure: %+v", r)
	}
	if r := f.Users(parley.Users{}); r.Code.IsAnswer() {
		t.Errorf("users after a failure: %+v", r)
	}
	if _, err := f.Snapshot(); !errors.Is(err, want) {
		t.Errorf("snapshot after a failure: %v", err)
	}
	if err := f.Checkpoint(t.Context()); f.stored.get() < at && !errors.Is(err, want) {
		t.Errorf("checkpoint after a failure: %v", err)
	}
	if err := f.WaitApplied(t.Context(), at+1); !errors.Is(err, want) {
		t.Errorf("wait after a failure: %v", err)
	}
	if got := f.Applied(); got != at {
		t.Errorf("applied %d after a failure, was %d", got, at)
	}
	select {
	case err := <-fatal:
		t.Errorf("fatal once more: %v", err)
	default:
	}
}

// TestDamageWhileRunning: what goes bad after Open is noticed when it is read.
func TestDamageWhileRunning(t *testing.T) {
	for what, touch := range map[string]func(*FSM, *logger) parley.Code{
		"a reader": func(f *FSM, _ *logger) parley.Code { return f.Inbox(parley.Inbox{User: "bob"}).Code },
		"a list":   func(f *FSM, _ *logger) parley.Code { return f.Users(parley.Users{}).Code },
		"apply": func(f *FSM, l *logger) parley.Code {
			if _, ok := f.Apply(entryOf(l.t, l.index+1, epoch, parley.Request{Command: parley.Ack{User: "bob", UpTo: parley.Cursor{ID: 1}}})).(error); ok {
				return parley.CodeShuttingDown
			}
			return parley.CodeOK
		},
	} {
		t.Run(what, func(t *testing.T) {
			f, fatal := failing(t, Config{})
			l := newLogger(t, f)
			l.cmd(parley.CreateUser{Name: "Bob"})
			l.cmd(parley.Send{To: "bob", Body: "text"})
			l.cmd(parley.Send{To: "bob", Body: "text"})
			l.checkpoint()
			l.cmd(parley.CreateUser{Name: "eve"}) // another generation or two
			l.checkpoint()
			l.cmd(parley.CreateUser{Name: "fay"})
			l.checkpoint()
			spoil(t, f)
			if code := touch(f, l); code.IsAnswer() {
				t.Errorf("code %v", code)
			}
			refuses(t, f, fatal, ErrDamaged)
		})
	}
}

// spoil changes all that a checkpoint has of Bob's name and of texts.
func spoil(t *testing.T, f *FSM) {
	t.Helper()
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	for at := 8192; at < len(data); at++ { // wherever they are
		if s := string(data[at:min(at+4, len(data))]); s == "text" || strings.HasPrefix(s, "Bob") {
			file.WriteAt([]byte{'#'}, int64(at+2))
		}
	}
}

// TestHalfAnEntryIsNotStored: an entry that could be applied in part only has no
// index, so a checkpoint of what it has changed would have it applied again.
func TestHalfAnEntryIsNotStored(t *testing.T) {
	var f *FSM
	var stored error
	armed := false
	f, fatal := failing(t, Config{OnEvents: func([]Event) { // which is before the FSM has failed
		if armed {
			stored = f.checkpoint()
		}
	}})
	l := newLogger(t, f)
	l.cmd(parley.CreateUser{Name: "Bob"})
	for range 2 {
		l.cmd(parley.Send{To: "bob", Body: "text"})
	}
	l.checkpoint()
	for _, name := range []string{"eve", "fay"} { // another generation or two
		l.cmd(parley.CreateUser{Name: name})
		l.checkpoint()
	}
	spoil(t, f)
	armed = true
	two := entryOf(t, l.index+1, epoch, parley.Request{Command: parley.Send{To: "fay"}}, parley.Request{Command: parley.Ack{User: "bob", UpTo: parley.Cursor{ID: 1}}})
	if r, ok := f.Apply(two).(error); !ok {
		t.Errorf("response %v", r)
	}
	if stored == nil {
		t.Error("half an entry was stored")
	}
	refuses(t, f, fatal, ErrDamaged)
}

func TestEntryThatCannotBeApplied(t *testing.T) {
	good := parley.Request{Command: parley.CreateUser{Name: "bob"}}
	reseal := func(b []byte) {
		n := Batch{buf: b, n: int(b[14])}
		n.Encode(epoch)
	}
	for what, change := range map[string]func([]byte) []byte{
		"checksum": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"version":  func(b []byte) []byte { b[0]++; return b },
		"kind":     func(b []byte) []byte { b[entryHeader] = 99; reseal(b); return b },
		"short":    func(b []byte) []byte { b = b[:len(b)-1]; reseal(b); return b },
		"long":     func(b []byte) []byte { b = append(b, 0); reseal(b); return b },
		"empty":    func([]byte) []byte { return nil },
	} {
		t.Run(what, func(t *testing.T) {
			f, fatal := failing(t, Config{})
			one, two, three := entryOf(t, 1, epoch, good), entryOf(t, 2, epoch, good, good), entryOf(t, 3, epoch, good)
			two.Data = change(two.Data)
			r := f.ApplyBatch([]*raft.Log{one, two, three})
			if _, ok := r[0].([]parley.Result); !ok {
				t.Errorf("the entry before: %v", r[0])
			}
			for _, x := range r[1:] {
				if err, ok := x.(error); !ok || !errors.Is(err, ErrEntry) {
					t.Errorf("response %v", x)
				}
			}
			if f.Applied() != 1 {
				t.Errorf("applied %d", f.Applied())
			}
			refuses(t, f, fatal, ErrEntry)
		})
	}
}

// TestCheckpointFails: a checkpoint that cannot be written is the end.
func TestCheckpointFails(t *testing.T) {
	f, fatal := failing(t, Config{})
	l := newLogger(t, f)
	l.cmd(parley.CreateUser{Name: "bob"})
	f.st.db.Close() // the disk is gone
	if err := f.Checkpoint(t.Context()); err == nil {
		t.Error("checkpoint without a disk")
	}
	if err := <-fatal; err == nil || f.Err() != err {
		t.Errorf("fatal: %v, Err %v", err, f.Err())
	}
}

// TestRestoreFails: when the snapshot cannot be put in the place of the state, what
// is stored from then on could be stored in a file that is not there any more.
func TestRestoreFails(t *testing.T) {
	source := start(t, Config{})
	l := newLogger(t, source)
	l.cmd(parley.CreateUser{Name: "bob"})
	l.checkpoint()
	meta, r, err := source.Snapshots().Open(checkpointID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, fatal := failing(t, Config{})
	_, r, err = f.Snapshots().Open(receive(t, f, meta, r))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.snaps.received.path); err != nil {
		t.Fatal(err)
	}
	if err := f.Restore(r); err == nil {
		t.Error("restored from nothing")
	}
	refuses(t, f, fatal, fs.ErrNotExist)
}

// FuzzVerify changes a checkpoint file at will: reading it ends, without a
// panic, and an error is ErrDamaged. A patch is a list of offsets (u32) and the
// bytes to be put there (u64).
func FuzzVerify(f *testing.F) {
	file, _ := filled(f)
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0x20, 0x0c, 0xff, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, patch []byte) {
		disk := bytes.Clone(file)
		for ; len(patch) >= 12; patch = patch[12:] {
			copy(disk[int(binary.BigEndian.Uint32(patch))%len(disk):], patch[4:12])
		}
		if _, err := verifyPages(bytes.NewReader(disk), int64(len(disk))); err != nil && !errors.Is(err, ErrDamaged) && !strings.Contains(err.Error(), "format") {
			t.Error(err)
		}
	})
}
