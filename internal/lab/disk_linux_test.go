package lab

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// After a loss of power there is what was flushed, and of what was written since
// there may be anything, in sectors; of names there are those of a flushed directory.
func TestLossOfPower(t *testing.T) {
	flushes, err := watchFlushes()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for seed := range uint64(120) {
		dir := t.TempDir()
		d := &disk{dir: dir + "/", outage: &outage{left: 3, refuse: syscall.EIO}, rng: rand.New(rand.NewPCG(seed, 0))}
		kept := create(t, dir, "kept")
		write(t, kept, 0, 'a', 4*sector)
		flush(t, kept, nil)
		gone := create(t, dir, "gone")
		if err := flushes.look(d); err != nil {
			t.Fatal(err)
		}
		write(t, kept, 2*sector, 'b', 4*sector) // flushed
		flush(t, kept, nil)
		fresh := create(t, dir, "fresh.tmp")
		write(t, fresh, 0, 'f', sector)
		flush(t, fresh, nil)
		if err := errors.Join(os.Rename(fresh.Name(), filepath.Join(dir, "fresh")), os.Remove(gone.Name())); err != nil {
			t.Fatal(err)
		}
		flush(t, open(t, dir), nil)
		unnamed := create(t, dir, "unnamed") // nobody flushes the directory
		write(t, unnamed, 0, 'u', sector)
		write(t, kept, sector, 'c', 2*sector) // nor this
		flush(t, unnamed, syscall.EIO)        // the fourth
		write(t, kept, 0, 'd', sector)        // too late
		flush(t, kept, syscall.EIO)
		flushes.finish(d)

		if d.err != nil || d.after["fresh.tmp"].blocks != nil || d.after["gone"].size != 0 {
			t.Fatalf("seed %d: left are %v: %v", seed, d.after, d.err)
		}
		if got := text(d.after["fresh"]); got != "f" {
			t.Fatalf("seed %d: fresh has %q", seed, got)
		}
		seen[fmt.Sprintf("kept %s, unnamed %q", text(d.after["kept"]), text(d.after["unnamed"]))]++
	}
	for state := range seen { // all that may be is seen, and nothing else
		var k, u string
		fmt.Sscanf(state, "kept %6s, unnamed %q", &k, &u)
		if k != "aabbbb" && k != "acbbbb" && k != "aacbbb" && k != "accbbb" || u != "" && u != "u" && u != "." {
			t.Errorf("left: %s", state)
		}
	}
	if len(seen) < 8 {
		t.Errorf("only %d states of what may be left: %v", len(seen), seen)
	}
}

func create(t *testing.T, dir, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, f *os.File, at int64, what byte, n int) {
	t.Helper()
	if _, err := f.WriteAt(bytes.Repeat([]byte{what}, n), at); err != nil {
		t.Fatal(err)
	}
}

func flush(t *testing.T, f *os.File, want error) {
	t.Helper()
	if err := f.Sync(); !errors.Is(err, want) {
		t.Fatalf("flush of %s: %v, want %v", f.Name(), err, want)
	}
}

// text is a letter for each sector.
func text(f file) (s string) {
	for at := int64(0); at < f.size; at += sector {
		b := head(tail(f.blocks[at/block*block], int(at%block)))
		switch {
		case isZero(b):
			s += "."
		case bytes.Equal(b, bytes.Repeat(b[:1], len(b))):
			s += string(b[:1])
		default:
			s += "!"
		}
	}
	return s
}
