package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// checkFile verifies the structure of a bbolt file: both meta pages, and every
// page, element and key of the tree. It is done before bbolt gets the file,
// because bbolt
//
//   - is content with one meta page and falls back to it silently, which undoes
//     the last transaction: an acknowledged entry, or a vote. A meta page is
//     written within one sector, so a crash does not leave half of one;
//   - walks a file without a free list on a goroutine of its own, where the
//     panic or fault that a damaged page causes cannot be caught;
//   - believes a page that says it has fewer elements than it had.
//
// And raft-boltdb makes an empty log where it does not find the bucket of that
// name, as Raft has not voted where it does not find the vote: so names are
// verified too.
func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	c := &checker{f: f, seen: make(map[uint64]bool)}
	if err := c.check(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	return nil
}

// The layout of bbolt files. A page: id 8, flags 2, count 2, overflow 4 bytes,
// then count elements of 16 bytes, then what they refer to, in order and
// without gaps.
const (
	pageHeader = 16
	elemLen    = 16

	branchPage = 1
	leafPage   = 2

	bucketElem = 1 // flag of a leaf element

	// Magic, version, page size and flags of 4 bytes each; root page, sequence,
	// free list, high water mark, transaction and FNV-64a of all that of 8 each.
	metaLen   = 4*4 + 6*8
	metaMagic = 0xED0CDAED
)

var order = binary.NativeEndian

type checker struct {
	f        *os.File
	pageSize uint64
	pages    uint64 // high water mark
	seen     map[uint64]bool
	buckets  []string
	in       string // the bucket that is being verified
}

func (c *checker) check() error {
	var root, newest uint64
	at := int64(0)
	for i := range 2 {
		var page [pageHeader + metaLen]byte
		if _, err := c.f.ReadAt(page[:], at); err == io.EOF {
			return fmt.Errorf("it ends within meta page %d", i)
		} else if err != nil {
			return err
		}
		meta := page[pageHeader:]
		h := fnv.New64a()
		h.Write(meta[:metaLen-8])
		if order.Uint32(meta) != metaMagic || order.Uint64(meta[56:]) != h.Sum64() {
			return fmt.Errorf("meta page %d does not match its checksum", i)
		}
		c.pageSize = uint64(order.Uint32(meta[8:]))
		if tx := order.Uint64(meta[48:]); tx >= newest {
			newest, root, c.pages = tx, order.Uint64(meta[16:]), order.Uint64(meta[40:])
		}
		at = int64(c.pageSize)
	}
	if err := c.tree(root, nil, nil); err != nil {
		return err
	}
	if !slices.Equal(c.buckets, []string{"conf", "logs"}) {
		return fmt.Errorf("it holds %q, not the log and the vote", c.buckets)
	}
	return nil
}

// tree verifies the tree below a page, whose keys must be from low up to, and
// not including, high (nil: no bound).
func (c *checker) tree(id uint64, low, high []byte) error {
	page, err := c.read(id)
	if err != nil {
		return err
	}
	if err := c.page(page, low, high); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (c *checker) read(id uint64) ([]byte, error) {
	if id < 2 || id >= c.pages || c.seen[id] {
		return nil, fmt.Errorf("page %d is out of range or referred to twice", id)
	}
	c.seen[id] = true
	var header [pageHeader]byte
	at := int64(id * c.pageSize)
	if _, err := c.f.ReadAt(header[:], at); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	overflow := uint64(order.Uint32(header[12:]))
	if order.Uint64(header[:]) != id || id+overflow >= c.pages {
		return nil, fmt.Errorf("page %d has the header of another", id)
	}
	page := make([]byte, (1+overflow)*c.pageSize)
	if _, err := c.f.ReadAt(page, at); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return page, nil
}

// page verifies one page and what is below it.
func (c *checker) page(page, low, high []byte) error {
	if len(page) < pageHeader {
		return fmt.Errorf("it has %d bytes", len(page))
	}
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	if flags != branchPage && flags != leafPage || flags == branchPage && count == 0 {
		return fmt.Errorf("it has flags %#x and %d elements", flags, count)
	}
	end := pageHeader + count*elemLen // of what has been accounted for
	if end > len(page) {
		return fmt.Errorf("%d elements in %d bytes", count, len(page))
	}
	var prev, key []byte
	var prevChild uint64
	for i := range count {
		at := pageHeader + i*elemLen
		e := page[at : at+elemLen]
		var kind, pos, ksize, vsize uint32
		if flags == leafPage {
			kind, pos, ksize, vsize = order.Uint32(e), order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		} else {
			pos, ksize = order.Uint32(e), order.Uint32(e[4:])
		}
		next := uint64(end) + uint64(ksize) + uint64(vsize)
		if at+int(pos) != end || next > uint64(len(page)) || kind > bucketElem {
			return fmt.Errorf("element %d is misplaced", i)
		}
		key = page[end : end+int(ksize)]
		value := page[end+int(ksize) : next]
		if i > 0 && bytes.Compare(prev, key) >= 0 || i == 0 && low != nil && bytes.Compare(key, low) < 0 {
			return fmt.Errorf("key of element %d is out of order", i)
		}
		if flags == branchPage && i > 0 {
			if err := c.tree(prevChild, prev, key); err != nil {
				return err
			}
		}
		if kind == bucketElem {
			c.buckets, c.in = append(c.buckets, string(key)), string(key)
			if err := c.bucket(value); err != nil {
				return fmt.Errorf("bucket %q: %w", key, err)
			}
		}
		if flags == leafPage && c.in == "conf" && kind != bucketElem && !known(key) {
			return fmt.Errorf("a value of the unknown name %q", key)
		}
		if flags == branchPage {
			prevChild = order.Uint64(e[8:])
		}
		prev, end = key, int(next)
	}
	if high != nil && count > 0 && bytes.Compare(key, high) >= 0 {
		return fmt.Errorf("its last key is out of order")
	}
	if flags == branchPage {
		return c.tree(prevChild, prev, high)
	}
	return nil
}

// known reports whether a value of that name is ever stored.
func known(key []byte) bool {
	switch string(key) {
	case keyTerm, keyVote, keyWAL, keyStage:
		return true
	}
	return false
}

// bucket verifies a bucket by its value: root page and sequence, and if there is
// no root page, the only page inline.
func (c *checker) bucket(value []byte) error {
	if len(value) < 16 {
		return fmt.Errorf("its value has %d bytes", len(value))
	}
	if root := order.Uint64(value); root != 0 {
		return c.tree(root, nil, nil)
	}
	return c.page(value[16:], nil, nil)
}
