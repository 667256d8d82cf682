package lab

import (
	"bytes"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// disk knows what of a directory would be there after a loss of power, from when
// it began to look. Of a file that is what it held when it was flushed the last
// time, and any part of what was written to it since; of a directory it is the
// names that it had when it was flushed, and each change since, or not.
type disk struct {
	dir    string // with a separator at the end
	rng    *rand.Rand
	outage *outage

	base  map[uint64]file   // by inode: what is on disk for certain
	names map[string]uint64 // inodes by path in dir, for certain

	after image // what is left, once it is over
	lost  int   // files of which something that was written is not there
	err   error
}

// outage is what happens to one disk, or to several at the same moment.
type outage struct {
	disks  []*disk
	left   int           // flushes until then
	refuse syscall.Errno // what flushes return from then on; 0: nobody will know
	dark   func()        // called first at that moment, from anywhere; nil: nothing
	over   atomic.Bool
}

// disks are those that are looked at. Whoever flushes has to tell them.
type disks struct {
	mu  sync.Mutex
	all map[*disk]struct{}
	any atomic.Bool
}

// look begins to look at disks, at a moment when nobody writes to them.
func (ds *disks) look(some ...*disk) error {
	for _, d := range some {
		current, err := d.current()
		if err != nil {
			return err
		}
		d.names, d.base = current.names, current.files
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.all == nil {
		ds.all = make(map[*disk]struct{})
	}
	for _, d := range some {
		ds.all[d] = struct{}{}
		d.outage.disks = append(d.outage.disks, d)
	}
	ds.any.Store(true)
	return nil
}

// finish makes what has not happened so far happen now, and looks no longer.
func (ds *disks) finish(some ...*disk) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range some {
		d.outage.happen()
		delete(ds.all, d)
	}
	ds.any.Store(len(ds.all) > 0)
}

// flush is told of each flush of a file or directory before it is done.
func (ds *disks) flush(path string) syscall.Errno {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for d := range ds.all {
		if name, ok := strings.CutPrefix(path+string(filepath.Separator), d.dir); ok {
			return d.flush(filepath.Clean(name)) // "." is the directory itself
		}
	}
	return 0
}

func (d *disk) flush(name string) syscall.Errno {
	f := d.outage
	if f.left--; f.left < 0 {
		f.happen()
		return f.refuse
	}
	d.note(d.keep(name))
	return 0
}

// happen is the moment.
func (f *outage) happen() {
	if f.over.Swap(true) {
		return
	}
	if f.dark != nil {
		f.dark()
	}
	for _, d := range f.disks {
		d.leave()
	}
}

func (d *disk) over() bool { return d.outage.over.Load() }

// note keeps the first error.
func (d *disk) note(err error) {
	if d.err == nil {
		d.err = err
	}
}

// keep notes that all of a file, or the names in a directory, are on disk.
func (d *disk) keep(name string) error {
	path := filepath.Join(d.dir, name)
	stat, err := os.Stat(path)
	switch {
	case err != nil:
		return ignoreMissing(err) // of a file that has no name any more
	case !stat.IsDir():
		d.base[inode(stat)], err = readFile(path)
		return err
	}
	for known := range d.names {
		if filepath.Dir(known) == name {
			delete(d.names, known)
		}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		d.names[filepath.Join(name, e.Name())] = inode(info)
	}
	return nil
}

func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// listing is a directory as the process sees it.
type listing struct {
	names map[string]uint64
	files map[uint64]file
}

func (d *disk) current() (listing, error) {
	l := listing{make(map[string]uint64), make(map[uint64]file)}
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreMissing(err)
		}
		name, err := filepath.Rel(d.dir, path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		f, err := readFile(path)
		if err != nil {
			return ignoreMissing(err)
		}
		l.names[name], l.files[inode(info)] = inode(info), f
		return nil
	})
	return l, err
}

// leave decides what is left.
func (d *disk) leave() {
	now, err := d.current()
	d.note(err)
	d.after = make(image)
	for name, was := range d.names {
		if is, ok := now.names[name]; ok && is == was || d.rng.IntN(2) == 0 {
			d.after[name] = d.torn(was, now)
		}
	}
	for name, is := range now.names {
		if was, ok := d.names[name]; (!ok || was != is) && d.rng.IntN(2) == 0 {
			d.after[name] = d.torn(is, now)
		}
	}
}

// torn is a file of which what has not been flushed is there in part.
func (d *disk) torn(inode uint64, now listing) file {
	was, is := d.base[inode], now.files[inode]
	if is.blocks == nil || was.equal(is) {
		return was // unchanged, or without a name and nowhere to be read
	}
	f := file{size: was.size, blocks: make(map[int64][]byte)}
	if d.rng.IntN(2) == 0 {
		f.size = is.size
	}
	arrived := d.some(was.differs(is))
	for _, at := range was.used(is) {
		if at >= f.size {
			continue
		}
		b := make([]byte, min(block, f.size-at))
		copy(b, was.blocks[at])
		for i := 0; i < len(b); i += sector {
			if arrived[at+int64(i)] {
				clear(b[i:min(i+sector, len(b))])
				copy(b[i:min(i+sector, len(b))], tail(is.blocks[at], i))
			}
		}
		f.blocks[at] = b
	}
	if !f.equal(is) {
		d.lost++
	}
	return f
}

// sector is what a disk writes as a whole, or not at all.
const sector = 512

// some chooses which of the sectors that were written have got to the disk: none,
// all, the first ones, or any.
func (d *disk) some(written []int64) map[int64]bool {
	arrived := make(map[int64]bool)
	how, first := d.rng.IntN(4), d.rng.IntN(len(written)+1)
	for i, at := range written {
		switch how {
		case 0:
		case 1:
			arrived[at] = true
		case 2:
			arrived[at] = i < first
		default:
			arrived[at] = d.rng.IntN(2) == 0
		}
	}
	return arrived
}

// used are the positions of the blocks in which there is anything, of two files.
func (f file) used(g file) (at []int64) {
	all := maps.Clone(f.blocks)
	if all == nil {
		all = make(map[int64][]byte)
	}
	maps.Copy(all, g.blocks)
	return slices.Sorted(maps.Keys(all))
}

// differs are the positions of the sectors in which two files differ.
func (f file) differs(g file) (at []int64) {
	for _, b := range f.used(g) {
		for i := 0; i < block; i += sector {
			x, y := head(tail(f.blocks[b], i)), head(tail(g.blocks[b], i))
			if !bytes.Equal(x, y) && !(isZero(x) && isZero(y)) {
				at = append(at, b+int64(i))
			}
		}
	}
	return at
}

// tail is b from i on, and head its first sector; nil is a block without anything.
func tail(b []byte, i int) []byte { return b[min(i, len(b)):] }
func head(b []byte) []byte        { return b[:min(sector, len(b))] }

func isZero(b []byte) bool { return bytes.Equal(b, empty[:len(b)]) }
