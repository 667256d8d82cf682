package wire

import "bytes"

// Where does a classic frame end? There is no length field. What can be relied on:
//
//   - A NUL is never part of a text. It pads a header or a frame.
//   - A client that pads does so up to the 1,024th byte.
//   - So a NUL run that ends earlier belongs to the header of the next frame,
//     which starts with the command right before the run.
//   - An unpadded frame with nothing behind it ends where the received bytes end,
//     if nothing follows shortly.
//
// scan applies these rules to the bytes at hand; [ClassicReader] does the waiting.

// cut is where a frame ends, as far as can be told.
type cut struct {
	text int // end of its text
	next int // where reading goes on
	// wait is WaitFrame if the cut is certain. Otherwise it is what to wait for,
	// and text and next are what holds if nothing comes (but not for WaitRest).
	wait    ClassicWait
	tooLong bool // no end within reach
}

// window is how many bytes scan needs to see to be certain: a frame, and the
// header of the next one.
const window = ClassicFrame + ClassicHeader

// commands are the ones that coalesced frames are told apart by.
var commands = [...]struct {
	name []byte
	args bool // it cannot do without
}{
	{[]byte("create"), true},
	{[]byte("connect"), true},
	{[]byte("delete"), true},
	{[]byte("list"), false},
	{[]byte("send"), true},
}

// scan finds the end of the frame at the beginning of b, which does not begin
// with a NUL and has no more than window bytes. whole says that the client is
// known to pad.
func scan(b []byte, whole bool) cut {
	if len(b) < ClassicHeader {
		return cut{wait: WaitRest}
	}
	n := commandLen(b[:ClassicHeader])
	if whole || string(b[:n]) == CommandHello {
		if len(b) < ClassicFrame {
			return cut{wait: WaitRest}
		}
		if end, ok := padded(b[:ClassicFrame]); ok {
			return cut{text: end, next: ClassicFrame}
		}
	}
	end := bytes.IndexByte(b[ClassicHeader:], 0) + ClassicHeader
	switch {
	case end >= ClassicHeader && end < ClassicFrame:
		return scanNUL(b, end)
	case len(b) < ClassicFrame:
		return cut{text: len(b), next: len(b), wait: waitAfter(b, n)}
	}
	return scanFull(b, end)
}

// padded reports whether the frame is one text and then padding, and where the
// text ends.
func padded(frame []byte) (end int, ok bool) {
	end = bytes.IndexByte(frame[ClassicHeader:], 0) + ClassicHeader
	if end < ClassicHeader {
		return len(frame), true
	}
	return end, len(bytes.Trim(frame[end:], "\x00")) == 0
}

// waitAfter is what to wait for when the bytes end within a text: b is a whole
// header, with a command of n bytes, and perhaps some text.
func waitAfter(b []byte, n int) ClassicWait {
	if len(b) == ClassicHeader && n > 0 && needsArgs(b[:n]) || halfHeader(b[ClassicHeader:]) {
		return WaitLikely
	}
	return WaitMore
}

// scanNUL finds the end when the first NUL behind the header is at end, within
// the frame.
func scanNUL(b []byte, end int) cut {
	next := end
	for next < len(b) && b[next] == 0 {
		next++
	}
	c := cut{text: end, next: next}
	if next >= ClassicFrame {
		return c // padding
	}
	open := next == len(b) // the run may go on
	run := next - end
	if n := commandAtEnd(b[ClassicHeader:end]); n > 0 {
		// A header of a known command, or padding behind a text that ends like one.
		header := end - n
		switch pad := ClassicHeader - n; {
		case run == pad && !open:
			return cut{text: header, next: header}
		case run == pad && needsArgs(b[header:end]):
			return cut{text: header, next: header, wait: WaitLikely}
		case run == pad:
			return cut{text: header, next: header, wait: WaitMore}
		case run < pad && open:
			c.wait = WaitLikely
			return c
		}
	}
	switch {
	case run >= ClassicHeader: // too long for a header: padding, of which more may come
	case open:
		c.wait = WaitMore
	case next >= 2*ClassicHeader && lowercase(b[next-ClassicHeader:end]):
		// A header of an unknown command, or a text that ends in a NUL or two.
		switch known, certain := headerAt(b[next:]); {
		case !certain:
			c.wait = WaitLikely
		case !known:
			c.text, c.next = next-ClassicHeader, next-ClassicHeader
		}
	}
	return c
}

// scanFull finds the end when there is no NUL in the first 1,024 bytes. The
// first behind them is at end, if there is one in b.
func scanFull(b []byte, end int) cut {
	c := cut{text: ClassicFrame, next: ClassicFrame}
	behind := b[ClassicFrame:]
	if end >= ClassicFrame {
		n := commandAtEnd(b[ClassicHeader:end])
		if header := end - n; n > 0 && header <= ClassicFrame {
			return cut{text: header, next: header} // unpadded, and the next header
		}
		if end == ClassicFrame {
			return c // a full frame, and excess padding
		}
		behind = b[ClassicFrame:end]
		if len(behind) < ClassicHeader && lowercase(behind) {
			return c // a full frame, and a header of an unknown command
		}
		return cut{tooLong: true}
	}
	switch {
	case len(behind) == 0 && halfHeader(b[ClassicHeader:]):
		c.wait = WaitLikely
	case len(behind) == 0:
		c.wait = WaitMore
	case len(behind) < ClassicHeader && lowercase(behind):
		c.wait = WaitLikely // half a header, or too long
		c.tooLong = true
	default:
		c.tooLong = true
	}
	return c
}

// commandAtEnd is the length of the known command that b ends with, 0 if none.
// No command is the end of another.
func commandAtEnd(b []byte) int {
	for _, c := range commands {
		if bytes.HasSuffix(b, c.name) {
			return len(c.name)
		}
	}
	return 0
}

// headerAt reports whether b starts with the header of a known command, and
// whether that is certain however b goes on.
func headerAt(b []byte) (known, certain bool) {
	var header [ClassicHeader]byte
	for _, c := range commands {
		header = [ClassicHeader]byte{}
		copy(header[:], c.name)
		if n := min(len(b), len(header)); bytes.Equal(b[:n], header[:n]) {
			return true, n == len(header)
		}
	}
	return false, true
}

// halfHeader reports whether a text ends with a known command or with three or
// more of its first letters.
func halfHeader(text []byte) bool {
	for _, c := range commands {
		for n := 3; n <= len(c.name); n++ {
			if bytes.HasSuffix(text, c.name[:n]) {
				return true
			}
		}
	}
	return false
}

func needsArgs(command []byte) bool {
	for _, c := range commands {
		if bytes.Equal(c.name, command) {
			return c.args
		}
	}
	return false
}

// lowercase reports whether b could be a command: ASCII letters, at least one.
func lowercase(b []byte) bool {
	for _, c := range b {
		if c < 'a' || c > 'z' {
			return false
		}
	}
	return len(b) > 0
}
