package fsm

import (
	"cmp"
	"slices"
)

// arrivals is messages in the order in which they came, in memory as the
// checkpoint is to have them: without a pointer and without an allocation of its
// own for each. What is removed leaves memory when all of its piece is removed.
type arrivals struct {
	pieces []*piece // none is empty but perhaps the last
	spare  *piece   // to be used again
	bytes  int64    // of memory
}

// piece is messages that came one after the other.
type piece struct {
	buf  []byte // room for the checksum and the message, for each
	at   []place
	live int // messages that are not removed
}

// place says where in its piece a message begins.
type place struct {
	pos     uint64 // position in the log: the message's key
	offset  uint32
	removed bool
}

const (
	pieceBytes = 256 << 10 // a longer message has a piece of its own
	costPlace  = 16
)

// add appends a message, whose position is after those of all others. The text
// is copied.
func (r *arrivals) add(pos uint64, h head, text string) {
	p := r.room(4 + maxHead + len(text))
	was := len(p.buf)
	p.at = append(p.at, place{pos: pos, offset: uint32(was)})
	p.buf = append(h.append(append(p.buf, 0, 0, 0, 0)), text...)
	p.live++
	r.bytes += int64(len(p.buf)-was) + costPlace
}

// room returns the piece that takes so many more bytes.
func (r *arrivals) room(n int) *piece {
	if k := len(r.pieces); k > 0 {
		if p := r.pieces[k-1]; len(p.buf)+n <= cap(p.buf) {
			return p
		}
	}
	p := r.spare
	if r.spare = nil; p == nil || n > cap(p.buf) {
		p = &piece{buf: make([]byte, 0, max(n, pieceBytes))}
	}
	r.pieces = append(r.pieces, p)
	return p
}

// find returns the stored form of a message, checksum not set, which is the
// arrivals' own memory; nil if it is not there.
func (r *arrivals) find(pos uint64) []byte {
	if _, p, i := r.search(pos); p != nil && !p.at[i].removed {
		return p.value(i)
	}
	return nil
}

// openRecent takes apart what find has found.
func openRecent(value []byte) (h head, text []byte, err error) {
	if value == nil {
		return head{}, nil, damaged("an unread message is not in memory")
	}
	h, text, _ = readHead(value[4:])
	return h, text, nil
}

// remove forgets a message.
func (r *arrivals) remove(pos uint64) {
	k, p, i := r.search(pos)
	if p == nil || p.at[i].removed {
		return
	}
	p.at[i].removed = true
	if p.live--; p.live > 0 {
		return
	}
	r.bytes -= int64(len(p.buf)) + costPlace*int64(len(p.at))
	p.buf, p.at = p.buf[:0], p.at[:0]
	if k < len(r.pieces)-1 {
		r.pieces = slices.Delete(r.pieces, k, k+1)
		if cap(p.buf) == pieceBytes {
			r.spare = p
		}
	}
}

// search finds where a message is: its piece, which is nil if it is nowhere, and
// the numbers of both.
func (r *arrivals) search(pos uint64) (k int, p *piece, i int) {
	k, found := slices.BinarySearchFunc(r.pieces, pos, func(p *piece, pos uint64) int {
		if len(p.at) == 0 {
			return 1
		}
		return cmp.Compare(p.at[0].pos, pos)
	})
	if !found {
		k--
	}
	if k < 0 {
		return 0, nil, 0
	}
	i, found = slices.BinarySearchFunc(r.pieces[k].at, pos, func(at place, pos uint64) int { return cmp.Compare(at.pos, pos) })
	if !found {
		return 0, nil, 0
	}
	return k, r.pieces[k], i
}

// value is the stored form of the i-th message.
func (p *piece) value(i int) []byte {
	from, to := int(p.at[i].offset), len(p.buf)
	if i+1 < len(p.at) {
		to = int(p.at[i+1].offset)
	}
	return p.buf[from:to:to]
}

// all calls fn with every message, in order.
func (r *arrivals) all(fn func(pos uint64, value []byte)) {
	for _, p := range r.pieces {
		for i, at := range p.at {
			if !at.removed {
				fn(at.pos, p.value(i))
			}
		}
	}
}
