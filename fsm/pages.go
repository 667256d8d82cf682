package fsm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math/bits"
)

// pageFile reads a bbolt file without bbolt, page by page and trusting nothing,
// so that a damaged file is found out before bbolt maps it and stumbles: bbolt
// follows the numbers in its pages blindly, some of them on goroutines of its
// own, where a panic cannot be caught. The format has been the same since 2014
// (version 2, little-endian on the machines that Parley is built for).
type pageFile struct {
	f        io.ReaderAt
	pageSize int64
	pages    uint64 // pages in use or once used: those beyond do not exist
	root     uint64
	seen     []uint64 // bitmap of the pages reached, each by one way only
	bufs     [][]byte // pages, by their depth in the tree; used again for the next one
}

const (
	pageHeader     = 16 // id u64, flags u16, count u16, overflow u32
	pageBranch     = 0x01
	pageLeaf       = 0x02
	pageMeta       = 0x04
	pageElement    = 16 // branch: offset u32, key length u32, child u64; leaf: flags u32, offset u32, key and value lengths u32
	pageMagic      = 0xED0CDAED
	pageVersion    = 2
	maxDepth       = 64
	metaLen        = 64 // the meta page's contents, checksum included
	bucketValueLen = 16 // root page u64, sequence u64; an inline page follows when the root is 0
)

// openPages finds the newest valid meta page of a file of some size.
func openPages(f io.ReaderAt, size int64) (*pageFile, error) {
	p := &pageFile{f: f}
	var newest uint64
	for at := int64(1 << 10); at <= 1<<16; at <<= 1 { // where the second one is tells the page size
		for i := range int64(2) {
			if i == 0 && at > 1<<10 {
				continue // the first meta page is at 0 whatever the page size
			}
			buf := make([]byte, pageHeader+metaLen)
			if _, err := f.ReadAt(buf, i*at); err != nil && err != io.EOF {
				return nil, err
			}
			m := buf[pageHeader:]
			h := fnv.New64a()
			h.Write(m[:metaLen-8])
			pageSize, tx := int64(u32(m[8:])), u64(m[48:])
			if u16(buf[8:]) != pageMeta || u32(m) != pageMagic || u32(m[4:]) != pageVersion || u64(m[56:]) != h.Sum64() ||
				(i == 1 && pageSize != at) || (p.pageSize != 0 && tx <= newest) {
				continue
			}
			newest, p.pageSize, p.root, p.pages = tx, pageSize, u64(m[16:]), u64(m[40:])
		}
	}
	switch {
	case p.pageSize < 1<<10 || p.pageSize > 1<<16 || bits.OnesCount64(uint64(p.pageSize)) != 1:
		return nil, damaged("neither meta page is valid")
	case p.pages > uint64(size/p.pageSize):
		return nil, damaged("the file has %d bytes where %d pages of %d were written", size, p.pages, p.pageSize)
	}
	p.seen = make([]uint64, p.pages/64+1)
	return p, nil
}

// buckets calls fn for each bucket, in order, with its root: a page number, or
// an inline page.
func (p *pageFile) buckets(fn func(name []byte, root uint64, inline []byte) error) error {
	return p.walk(p.root, nil, func(flags uint32, key, value []byte) error {
		if flags != 1 || len(value) < bucketValueLen {
			return damaged("key %q in the root is no bucket", key)
		}
		return fn(bytes.Clone(key), u64(value), bytes.Clone(value[bucketValueLen:]))
	})
}

// visit is called with the elements of leaf pages.
type visit func(flags uint32, key, value []byte) error

// walk calls fn for all keys and values below a page, or in an inline page, in
// order, and checks that it is one.
func (p *pageFile) walk(root uint64, inline []byte, fn visit) error {
	var last []byte
	first := true
	ordered := func(flags uint32, key, value []byte) error {
		if !first && bytes.Compare(key, last) <= 0 {
			return damaged("key %x follows %x", key, last)
		}
		first, last = false, append(last[:0], key...)
		return fn(flags, key, value)
	}
	if root == 0 {
		return p.leaf(0, inline, ordered)
	}
	return p.page(root, 0, bounds{}, ordered)
}

// bounds are between which keys a search comes to a page: from from on, and
// before to. Nil is none.
type bounds struct{ from, to []byte }

// within narrows the bounds.
func (b bounds) within(c bounds) bounds {
	if bytes.Compare(c.from, b.from) > 0 {
		b.from = c.from
	}
	if c.to != nil && (b.to == nil || bytes.Compare(c.to, b.to) < 0) {
		b.to = c.to
	}
	return b
}

// page walks the tree below a page.
func (p *pageFile) page(id uint64, depth int, lead bounds, fn visit) error {
	buf, err := p.read(id, depth)
	if err != nil {
		return err
	}
	switch flags := u16(buf[8:]); {
	case flags == pageLeaf:
		return p.leaf(id, buf, func(flags uint32, key, value []byte) error {
			if bytes.Compare(key, lead.from) < 0 || lead.to != nil && bytes.Compare(key, lead.to) >= 0 {
				return damaged("key %x in page %d is not where a search would look for it", key, id)
			}
			return fn(flags, key, value)
		})
	case flags != pageBranch:
		return damaged("page %d has flags %#x", id, flags)
	case depth > maxDepth:
		return damaged("page %d is too deep in the tree", id)
	}
	count := int(u16(buf[10:]))
	var here bounds // keys of this element and the next: where a search turns
	for i := range count + 1 {
		at := pageHeader + i*pageElement
		here.from = here.to
		if here.to = nil; i < count {
			if at+pageElement > len(buf) {
				return damaged("page %d has no room for %d elements", id, count)
			}
			if here.to, err = span(buf, at, u32(buf[at:]), u32(buf[at+4:]), id); err != nil {
				return err
			}
		}
		if i == 0 {
			continue
		}
		if err := p.page(u64(buf[at-pageElement+8:]), depth+1, lead.within(here), fn); err != nil {
			return err
		}
	}
	return nil
}

// leaf calls fn for the elements of a leaf page.
func (p *pageFile) leaf(id uint64, buf []byte, fn visit) error {
	if len(buf) < pageHeader || u16(buf[8:]) != pageLeaf {
		return damaged("inline page is no leaf")
	}
	count := int(u16(buf[10:]))
	for i := range count {
		at := pageHeader + i*pageElement
		if at+pageElement > len(buf) {
			return damaged("page %d has no room for %d elements", id, count)
		}
		offset, keyLen, valueLen := u32(buf[at+4:]), u32(buf[at+8:]), u32(buf[at+12:])
		key, err := span(buf, at, offset, keyLen, id)
		if err != nil {
			return err
		}
		value, err := span(buf, at, offset+keyLen, valueLen, id)
		if err != nil {
			return err
		}
		if err := fn(u32(buf[at:]), key, value); err != nil {
			return err
		}
	}
	return nil
}

// read returns a page with its overflow pages. It is valid until the next page
// of that depth is read.
func (p *pageFile) read(id uint64, depth int) ([]byte, error) {
	if id < 2 || id >= p.pages {
		return nil, damaged("page %d of %d", id, p.pages)
	}
	if depth == len(p.bufs) {
		p.bufs = append(p.bufs, make([]byte, p.pageSize))
	}
	buf := p.bufs[depth][:p.pageSize]
	if _, err := p.f.ReadAt(buf, int64(id)*p.pageSize); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	overflow := uint64(u32(buf[12:]))
	if u64(buf) != id || id+overflow >= p.pages {
		return nil, damaged("page %d calls itself %d and has %d overflow pages", id, u64(buf), overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if p.seen[i/64]&(1<<(i%64)) != 0 {
			return nil, damaged("page %d is used twice", i)
		}
		p.seen[i/64] |= 1 << (i % 64)
	}
	if overflow == 0 {
		return buf, nil
	}
	size := int64(overflow+1) * p.pageSize
	if int64(cap(buf)) < size {
		p.bufs[depth] = make([]byte, size)
	}
	buf = p.bufs[depth][:size]
	if _, err := p.f.ReadAt(buf, int64(id)*p.pageSize); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return buf, nil
}

// span is a key or value: n bytes at an offset from its element.
func span(buf []byte, at int, offset, n uint32, id uint64) ([]byte, error) {
	from := uint64(at) + uint64(offset)
	if to := from + uint64(n); to <= uint64(len(buf)) {
		return buf[from:to], nil
	}
	return nil, damaged("page %d has an element beyond its end", id)
}

func u16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
