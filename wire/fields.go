package wire

import (
	"encoding/binary"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/parley-chat/parley"
)

// Strings come in two sorts. Text that a server sends is always valid UTF-8
// (appendText, fields.text). Text in a request is whatever the client was given
// (appendRaw, fields.raw): whether it is valid is for the service to answer.

func appendRaw(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendText(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return appendRaw(b, s)
}

func appendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendCursor(b []byte, c parley.Cursor) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(c.Incarnation)), uint64(c.ID))
}

// appendTime appends nanoseconds since 1970, and 0 for the zero time and for
// what lies outside 1970–2262.
func appendTime(b []byte, t time.Time) []byte {
	var n uint64
	if s := t.Unix(); s >= 0 && s < math.MaxInt64/int64(time.Second) {
		n = uint64(t.UnixNano())
	}
	return binary.AppendUvarint(b, n)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// fields takes fields off the front of b. After the first that is wrong, bad
// says what, b is empty, and all further fields are zero.
type fields struct {
	b   []byte
	bad string
}

func (d *fields) fail(why string) {
	if d.bad == "" {
		d.bad = why
	}
	d.b = nil
}

func (d *fields) byte() byte {
	if len(d.b) == 0 {
		d.fail("ends too early")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *fields) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail("a boolean that is neither 0 nor 1")
	}
	return v == 1
}

func (d *fields) uvarint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := d.b[0]
		d.b = d.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.b)
	switch {
	case n == 0:
		d.fail("ends too early")
		return 0
	case n < 0:
		d.fail("a number beyond 64 bits")
		return 0
	case d.b[n-1] == 0:
		d.fail("a number that is not in its shortest form")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// int takes a zigzag-encoded number.
func (d *fields) int() int {
	u := d.uvarint()
	v := int64(u>>1) ^ -int64(u&1)
	if int64(int(v)) != v {
		d.fail("a number beyond this machine's integers")
		return 0
	}
	return int(v)
}

// slice takes a length and as many bytes. They are part of the frame: copy them.
func (d *fields) slice() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("a length beyond the end of the frame")
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *fields) raw() string { return string(d.slice()) }

func (d *fields) text() string { return string(d.valid(d.slice())) }

func (d *fields) valid(v []byte) []byte {
	if !utf8.Valid(v) {
		d.fail("text that is not valid UTF-8")
		return nil
	}
	return v
}

func (d *fields) bytes() []byte { return append([]byte(nil), d.slice()...) }

func (d *fields) cursor() parley.Cursor {
	return parley.Cursor{Incarnation: parley.Incarnation(d.uvarint()), ID: parley.MessageID(d.uvarint())}
}

func (d *fields) time() time.Time {
	switch n := d.uvarint(); {
	case n == 0:
		return time.Time{}
	case n > math.MaxInt64:
		d.fail("a time beyond the year 2262")
		return time.Time{}
	default:
		return time.Unix(0, int64(n)).UTC()
	}
}

// count takes the number of items that follow, each of at least size bytes, so
// that nothing larger than the frame is ever allocated for a number in it.
func (d *fields) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail("a count beyond the end of the frame")
		return 0
	}
	return int(n)
}
