// Package faultfs is a file system for tests whose machine can lose its power.
//
// A [Disk] keeps files in memory, twice: as programs see them, and as they are on
// the platter. What was written and not yet synced is only in the former. A power
// loss ([Disk.PowerLoss]) leaves what is on the platter and a random part of the
// rest: of each write some sectors, in any order; of names that were made, changed
// or removed in a directory that was not synced since, some. It promises a program
// what POSIX does and nothing that common file systems do beyond it: a synced file
// whose directory was not may have no name.
//
// A [Mount] is a Disk under a directory of this machine, for programs that know
// nothing of it (FUSE; Linux, root). It can freeze, fail and be slow on command.
package faultfs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// Sector is the part of a file that a disk writes as a whole or not at all.
const Sector = 512

// Disk is a file system. It is safe for concurrent use; an operation is done as
// a whole or not at all.
type Disk struct {
	mu    sync.Mutex
	nodes map[uint64]*node
	next  uint64 // id of the next node

	recording bool
	record    []op
}

// root is the id of the root directory.
const root = 1

// node is a file, a directory or a socket.
type node struct {
	id  uint64
	typ typ

	// A file: its bytes as programs see them, those on the platter, and what was
	// done to it since it was last synced.
	now, safe []byte
	wait      []op

	// A directory: its names as programs see them, those on the platter, and what
	// was done to it since it was last synced.
	names, kept map[string]uint64
	moves       []op
}

type typ uint8

const (
	file typ = iota
	directory
	socket
)

// kind is what an op does.
type kind uint8

const (
	opWrite    kind = iota // data at off of the file node
	opTruncate             // the file node becomes off bytes long
	opMake                 // the directory node gets a name for the new node to
	opRemove               // the directory node loses a name
	opRename               // of the directory node name becomes toName of the directory to
	opSync                 // the file or directory node
)

// op is one change. Each takes effect at once for programs, and after a sync for
// the platter.
type op struct {
	kind   kind
	node   uint64
	off    int64
	data   []byte
	name   string
	to     uint64
	toName string
	typ    typ    // opMake: of the new node
	moved  uint64 // opRename: the node that has the name
}

// New returns an empty disk.
func New() *Disk {
	d := &Disk{nodes: make(map[uint64]*node), next: root + 1}
	d.nodes[root] = newDir(root)
	return d
}

func newDir(id uint64) *node {
	return &node{id: id, typ: directory, names: make(map[string]uint64), kept: make(map[string]uint64)}
}

// do carries out a change. mu is held.
func (d *Disk) do(o op) {
	if d.recording {
		d.record = append(d.record, o)
	}
	n := d.nodes[o.node]
	switch o.kind {
	case opWrite, opTruncate:
		n.now = changed(n.now, o)
		n.wait = append(n.wait, o)
	case opMake:
		made := &node{id: o.to, typ: o.typ}
		if o.typ == directory {
			made = newDir(o.to)
		}
		d.nodes[o.to] = made
		d.next = max(d.next, o.to+1)
		n.names[o.name] = o.to
		n.moves = append(n.moves, o)
	case opRemove:
		delete(n.names, o.name)
		n.moves = append(n.moves, o)
	case opRename:
		to := d.nodes[o.to]
		delete(n.names, o.name)
		to.names[o.toName] = o.moved
		n.moves = append(n.moves, o)
		if to != n {
			to.moves = append(to.moves, o)
		}
	case opSync:
		d.sync(n)
	}
}

// changed are a file's bytes after a write or truncation.
func changed(b []byte, o op) []byte {
	if o.kind == opTruncate {
		return resized(b, o.off)
	}
	if end := o.off + int64(len(o.data)); end > int64(len(b)) {
		b = resized(b, end)
	}
	copy(b[o.off:], o.data)
	return b
}

// resized is b with size bytes, the new ones 0.
func resized(b []byte, size int64) []byte {
	if old := int64(len(b)); size <= old {
		clear(b[size:]) // as they will be if it grows again
		return b[:size]
	}
	if size > int64(cap(b)) {
		return append(make([]byte, 0, size+size/4), b...)[:size]
	}
	return b[:size]
}

// sync brings a file, or a directory's names, to the platter. mu is held.
func (d *Disk) sync(n *node) {
	for _, o := range n.wait {
		n.safe = changed(n.safe, o)
	}
	n.wait = nil
	for _, o := range n.moves {
		d.keep(n, o)
	}
	n.moves = nil
}

// keep does on the platter what was done to the names of a directory. mu is held.
// Of a rename between two directories each gets its part when it is synced.
func (d *Disk) keep(n *node, o op) {
	switch o.kind {
	case opMake:
		n.kept[o.name] = o.to
	case opRemove:
		delete(n.kept, o.name)
	case opRename:
		if o.node == n.id && n.kept[o.name] == o.moved {
			delete(n.kept, o.name)
		}
		if o.to == n.id {
			n.kept[o.toName] = o.moved
		}
	}
}

// Record begins to keep all changes, for [Disk.Replay].
func (d *Disk) Record() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recording = true
}

// Changes is the number of changes recorded so far.
func (d *Disk) Changes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.record)
}

// A Replay goes through the changes that a disk has recorded since it was empty.
type Replay struct {
	ops  []op
	disk *Disk
	at   int
}

// Replay begins with an empty disk.
func (d *Disk) Replay() *Replay {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Replay{ops: slices.Clone(d.record), disk: New()}
}

// To goes on until n changes have been made, and returns the disk as it was then.
// n must not be less than before.
func (r *Replay) To(n int) *Disk {
	for ; r.at < n; r.at++ {
		r.disk.do(r.ops[r.at])
	}
	return r.disk
}

// CopyTo writes all files, as programs see them, into a directory of this
// machine. Parts of files that are 0 become holes.
func (d *Disk) CopyTo(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeDir(d.nodes[root], dir)
}

func (d *Disk) writeDir(n *node, path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	for name, id := range n.names {
		path, n := filepath.Join(path, name), d.nodes[id]
		var err error
		switch n.typ {
		case directory:
			err = d.writeDir(n, path)
		case file:
			err = writeSparse(path, n.now)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func writeSparse(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const part = 64 << 10
	var zeros [part]byte
	for off := 0; off < len(b); off += part {
		p := b[off:min(off+part, len(b))]
		if bytes.Equal(p, zeros[:len(p)]) {
			continue
		}
		if _, err := f.WriteAt(p, int64(off)); err != nil {
			return err
		}
	}
	return f.Truncate(int64(len(b)))
}

// lookup finds a node by the slash-separated path from the root. mu is held.
func (d *Disk) lookup(path string) (*node, error) {
	n := d.nodes[root]
	for part := range bytes.SplitSeq([]byte(path), []byte("/")) {
		if len(part) == 0 || string(part) == "." {
			continue
		}
		id, ok := n.names[string(part)]
		if !ok {
			return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
		n = d.nodes[id]
	}
	return n, nil
}

// ReadFile returns a file's bytes as programs see them.
func (d *Disk) ReadFile(path string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.lookup(path)
	if err != nil {
		return nil, err
	}
	if n.typ == directory {
		return nil, fmt.Errorf("%s: %w", path, syscall.EISDIR)
	}
	return slices.Clone(n.now), nil
}
