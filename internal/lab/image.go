package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// copies makes images of directories that are being written to.
type copies struct {
	mu    sync.Mutex
	rng   *rand.Rand
	tries map[string]int // how they came about
}

// block is the unit in which empty parts of files are left out.
const block = 64 << 10

// image is the files of a directory by their names; of a file, its size and the
// blocks that are not empty.
type image map[string]file

type file struct {
	size   int64
	blocks map[int64][]byte
}

// take copies a directory as a process that is killed may leave it at one moment.
// All files were the same before and after the copy, but for the log, of which a
// last write may be there in part: see readBolt and grown.
func (c *copies) take(from string) (image, error) {
	const attempts = 200
	c.mu.Lock()
	yields := c.rng.IntN(300)
	c.mu.Unlock()
	for range yields { // while others write
		runtime.Gosched()
	}
	for i := 0; ; i++ {
		first, err := read(from)
		var then image
		if err == nil {
			then, err = read(from)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errMoved) { // files are renamed, or written to
			return nil, err
		}
		if err == nil && first.possible(then) {
			c.note(howMade(first.equal(then)), 0)
			return first, nil
		}
		if i >= attempts {
			time.Sleep(time.Nanosecond) // in a bubble: until nobody does anything
		}
		if i > 2*attempts {
			return nil, errors.New("the directory does not come to rest")
		}
	}
}

func howMade(rest bool) string {
	if rest {
		return "copied at rest"
	}
	return "copied amid a write"
}

// note counts how an image came about, and those of which something is lost.
func (c *copies) note(how string, lost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries[how]++
	if lost > 0 {
		c.tries[how+", with something missing"]++
	}
}

// page is bbolt's unit.
const page = 4096

func read(dir string) (image, error) {
	m := make(image)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch {
		case d.Name() == "raft.db":
			m[name], err = readBolt(path)
		case filepath.Ext(name) == stageExt:
			m[name], err = readStage(path)
		default:
			m[name], err = readFile(path)
		}
		return err
	})
	return m, err
}

var errMoved = errors.New("a transaction was written meanwhile")

// readBolt reads a bbolt file that may be written to. Its first two pages say in
// turn where the rest is, and are written, last, by each transaction. If they are
// the same before and after, everything that they point to is intact, because
// what a transaction gives up is used again by the next one at the earliest; and
// of the one that may have been under way there is what had been written of it,
// any part, but not its end.
func readBolt(path string) (file, error) {
	heads := func() (b []byte, err error) {
		in, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		b = make([]byte, 2*page)
		_, err = in.ReadAt(b, 0)
		return b, err
	}
	before, err := heads()
	if err != nil {
		return file{}, err
	}
	f, err := readFile(path)
	if err != nil {
		return file{}, err
	}
	after, err := heads()
	if err != nil {
		return file{}, err
	}
	if !bytes.Equal(before, after) {
		return file{}, errMoved
	}
	copy(f.blocks[0], before)
	return f, nil
}

// stageExt ends the name of a log's staging file, which is written in sectors, each
// with a CRC32C of its place and what follows in front.
const stageExt = ".stage"

// readStage reads a staging file that may be written to. A sector that is there in
// part was met on its way to the system's memory, where a write that is cut short
// ends with a page.
func readStage(path string) (file, error) {
	f, err := readFile(path)
	if err != nil {
		return file{}, err
	}
	for at, b := range f.blocks {
		for i := 0; i+sector <= len(b); i += sector {
			s := b[i : i+sector]
			place := binary.LittleEndian.AppendUint64(nil, uint64(at)+uint64(i))
			if !isZero(s) && binary.LittleEndian.Uint32(s) != crc32.Update(crc32.Checksum(place, castagnoli), castagnoli, s[4:]) {
				return file{}, errMoved
			}
		}
	}
	return f, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func readFile(path string) (file, error) {
	in, err := os.Open(path)
	if err != nil {
		return file{}, err
	}
	defer in.Close()
	stat, err := in.Stat()
	if err != nil {
		return file{}, err
	}
	f := file{size: stat.Size(), blocks: make(map[int64][]byte)}
	for at := int64(0); at < f.size; at += block {
		if at = nextData(in, at) / block * block; at >= f.size {
			break
		}
		part := make([]byte, min(block, f.size-at))
		if _, err := in.ReadAt(part, at); err != nil {
			return file{}, errors.Join(errMoved, err) // it has become shorter
		}
		if !bytes.Equal(part, empty[:len(part)]) {
			f.blocks[at] = part
		}
	}
	return f, nil
}

var empty = make([]byte, block)

// nextData is the next position at which there may be anything in a file.
func nextData(in *os.File, at int64) int64 {
	if runtime.GOOS != "linux" {
		return at
	}
	const seekData = 3
	next, err := in.Seek(at, seekData)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return 1 << 62 // nothing any more
	case err != nil:
		return at
	}
	return next
}

// possible reports whether m, read before then, is what was there at a moment.
func (m image) possible(then image) bool {
	if len(m) != len(then) {
		return false
	}
	for name, f := range m {
		g, ok := then[name]
		switch {
		case !ok:
			return false
		case f.equal(g):
		case filepath.Base(name) == "raft.db" && (m[name+stageExt].size == 0 || f.sameHeads(g)): // it must belong to what is staged
		case filepath.Ext(name) == ".wal" && f.grown(g):
		default:
			return false
		}
	}
	return true
}

func (m image) equal(o image) bool {
	for name, f := range m {
		if !f.equal(o[name]) {
			return false
		}
	}
	return len(m) == len(o)
}

func (f file) equal(g file) bool {
	if f.size != g.size || len(f.blocks) != len(g.blocks) {
		return false
	}
	for at, b := range f.blocks {
		if !bytes.Equal(b, g.blocks[at]) {
			return false
		}
	}
	return true
}

// sameHeads reports whether no transaction lies between two images of a bbolt file.
func (f file) sameHeads(g file) bool { return bytes.Equal(f.blocks[0][:2*page], g.blocks[0][:2*page]) }

// grown reports whether g is f with something written where there was nothing.
func (f file) grown(g file) bool {
	for at, b := range f.blocks {
		now := g.blocks[at]
		if len(now) != len(b) {
			return false
		}
		for i := range b {
			if b[i] != 0 && b[i] != now[i] {
				return false
			}
		}
	}
	return f.size == g.size
}

func (m image) write(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, f := range m {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := f.write(path); err != nil {
			return err
		}
	}
	return nil
}

func (f file) write(path string) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = out.Truncate(f.size)
	for at, b := range f.blocks {
		_, werr := out.WriteAt(b, at)
		err = errors.Join(err, werr)
	}
	return errors.Join(err, out.Close())
}
