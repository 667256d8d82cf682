package faultfs

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func (d *Disk) mustCreate(t *testing.T, parent uint64, name string, of typ) uint64 {
	t.Helper()
	d.next++
	d.do(op{kind: opMake, node: parent, name: name, to: d.next - 1, typ: of})
	return d.next - 1
}

// After a power loss each sector of a file is as it was at some time since the
// last sync, and the file as long as it was at some time since then.
func TestSectorsHaveBeen(t *testing.T) {
	seen := make(map[string]int)
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		d := New()
		f := d.mustCreate(t, root, "f", file)
		d.do(op{kind: opSync, node: root})
		versions := [][]byte{nil}
		for range 1 + rng.IntN(8) {
			switch p := rng.IntN(10); {
			case p < 7:
				data := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, 1+rng.IntN(4*Sector))
				d.do(op{kind: opWrite, node: f, off: rng.Int64N(4 * Sector), data: data})
			case p < 9:
				d.do(op{kind: opTruncate, node: f, off: rng.Int64N(8 * Sector)})
			default:
				d.do(op{kind: opSync, node: f})
				versions = nil
			}
			now, err := d.ReadFile("f")
			if err != nil {
				t.Fatal(err)
			}
			versions = append(versions, now)
		}
		found, err := d.PowerLoss(rng).ReadFile("f")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(versions, func(v []byte) bool { return len(v) == len(found) }) {
			t.Fatalf("seed %d: %d bytes, as it never had", seed, len(found))
		}
		for s := 0; s < len(found); s += Sector {
			if !slices.ContainsFunc(versions, func(v []byte) bool { return bytes.Equal(sectorOf(v, s, len(found)), sectorOf(found, s, len(found))) }) {
				t.Fatalf("seed %d: sector at %d is %x…, as it never was", seed, s, found[s:min(s+16, len(found))])
			}
		}
		switch i := slices.IndexFunc(versions, func(v []byte) bool { return bytes.Equal(v, found) }); {
		case i < 0:
			seen["torn"]++
		case i == len(versions)-1:
			seen["kept"]++
		default:
			seen["lost"]++
		}
	}
	for _, how := range []string{"torn", "kept", "lost"} {
		if seen[how] < 100 {
			t.Errorf("%s only %d times: %v", how, seen[how], seen)
		}
	}
}

// sectorOf is the sector at s of b, if that had so many bytes.
func sectorOf(b []byte, s, size int) []byte {
	sector := make([]byte, min(Sector, size-s))
	if s < len(b) {
		copy(sector, b[s:])
	}
	return sector
}

// What was synced and not touched since is as it was, and the rest is gone now
// and then.
func TestSyncedStays(t *testing.T) {
	lost := 0
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		d := New()
		f := d.mustCreate(t, root, "f", file)
		d.do(op{kind: opWrite, node: f, data: []byte("synced")})
		d.do(op{kind: opSync, node: f})
		d.do(op{kind: opSync, node: root})
		d.do(op{kind: opWrite, node: f, off: 4096, data: []byte("not synced")})
		b, err := d.PowerLoss(rng).ReadFile("f")
		if err != nil || !bytes.HasPrefix(b, []byte("synced")) {
			t.Fatalf("seed %d: %q %v", seed, b, err)
		}
		if !bytes.Contains(b, []byte("not synced")) {
			lost++
		}
	}
	if lost < 20 || lost > 180 {
		t.Errorf("what was not synced was lost %d times of 200", lost)
	}
}

// A synced file may have no name; a rename happens or does not; a removed name
// may be back.
func TestNames(t *testing.T) {
	seen := make(map[string]int)
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 3))
		d := New()
		dir := d.mustCreate(t, root, "dir", directory)
		gone := d.mustCreate(t, dir, "gone", file)
		old := d.mustCreate(t, dir, "file", file)
		d.do(op{kind: opWrite, node: old, data: []byte("old")})
		for _, id := range []uint64{old, gone, dir, root} {
			d.do(op{kind: opSync, node: id})
		}
		d.do(op{kind: opRemove, node: dir, name: "gone"})
		temp := d.mustCreate(t, dir, "file.new", file)
		d.do(op{kind: opWrite, node: temp, data: []byte("new")})
		d.do(op{kind: opSync, node: temp})
		d.do(op{kind: opRename, node: dir, name: "file.new", to: dir, toName: "file", moved: temp})
		if seed%2 == 0 {
			d.do(op{kind: opSync, node: dir})
		}
		found := d.PowerLoss(rng)
		b, err := found.ReadFile("dir/file")
		if err != nil || string(b) != "old" && string(b) != "new" {
			t.Fatalf("seed %d: %q %v", seed, b, err)
		}
		names := fmt.Sprint(string(b), " ", slices.Sorted(maps.Keys(found.nodes[dir].names)))
		if seed%2 == 0 && names != "new [file]" {
			t.Fatalf("seed %d: %s after the directory was synced", seed, names)
		}
		seen[names]++
	}
	for _, want := range []string{"new [file]", "old [file file.new gone]", "old [file gone]", "old [file file.new]", "new [file gone]"} {
		if seen[want] == 0 {
			t.Errorf("never seen: %s; only %v", want, seen)
		}
	}
}

// The same changes make the same disk, at any place among them.
func TestReplay(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	d := New()
	d.Record()
	f := d.mustCreate(t, root, "f", file)
	var versions []string
	for range 50 {
		d.do(op{kind: opWrite, node: f, off: rng.Int64N(2000), data: []byte{byte(rng.IntN(256))}})
		b, _ := d.ReadFile("f")
		versions = append(versions, string(b))
	}
	r := d.Replay()
	for i, want := range versions {
		if b, err := r.To(i + 2).ReadFile("f"); err != nil || string(b) != want {
			t.Fatalf("after change %d: %q %v, want %q", i+2, b, err, want)
		}
	}
}

func TestCopyTo(t *testing.T) {
	d := New()
	dir := d.mustCreate(t, root, "dir", directory)
	f := d.mustCreate(t, dir, "f", file)
	d.do(op{kind: opWrite, node: f, off: 1 << 20, data: []byte("far out")})
	d.do(op{kind: opTruncate, node: f, off: 2 << 20})
	want, _ := d.ReadFile("dir/f")
	to := t.TempDir()
	if err := d.CopyTo(to); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(to, "dir", "f"))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v; want %d", len(got), err, len(want))
	}
}
