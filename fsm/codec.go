package fsm

import (
	"encoding/binary"
	"hash/crc32"
)

// castagnoli is the polynomial of every checksum here: CRC32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendString appends a string after its length.
func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// uvarint reads a number as reader.uvarint does, and returns its length, which
// is 0 if there is none.
func uvarint(b []byte) (v uint64, n int) {
	if v, n = binary.Uvarint(b); n <= 0 || n > 1 && b[n-1] == 0 { // none, or longer than it need be
		return 0, 0
	}
	return v, n
}

// reader takes apart what the append functions put together. It is strict: each
// value has one encoding only. After the first mistake it is bad and returns
// zero values. Strings share the memory of s.
type reader struct {
	s   string
	bad bool
}

func (r *reader) uvarint() uint64 {
	var v uint64
	for i := 0; i < len(r.s) && i < binary.MaxVarintLen64; i++ {
		c := r.s[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c >= 0x80 {
			continue
		}
		if (c == 0 && i > 0) || (i == 9 && c > 1) { // not minimal, or over 64 bits
			break
		}
		r.s = r.s[i+1:]
		return v
	}
	r.fail()
	return 0
}

// small reads a number that must not exceed limit.
func (r *reader) small(limit uint64) uint64 {
	v := r.uvarint()
	if v > limit {
		r.fail()
		return 0
	}
	return v
}

func (r *reader) byte() byte {
	if len(r.s) == 0 {
		r.fail()
		return 0
	}
	b := r.s[0]
	r.s = r.s[1:]
	return b
}

func (r *reader) bytes(n uint64) string {
	if n > uint64(len(r.s)) {
		r.fail()
		return ""
	}
	b := r.s[:n]
	r.s = r.s[n:]
	return b
}

func (r *reader) string(limit int) string { return r.bytes(r.small(uint64(limit))) }

func (r *reader) int64() int64 {
	var v uint64
	for _, c := range []byte(r.bytes(8)) {
		v = v<<8 | uint64(c)
	}
	return int64(v)
}

func (r *reader) fail() { r.bad, r.s = true, "" }

// done reports whether everything has been read and nothing was wrong.
func (r *reader) done() bool { return !r.bad && r.s == "" }
