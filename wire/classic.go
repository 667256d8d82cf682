package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// The measures of the classic protocol.
const (
	ClassicHeader = 15                           // bytes of command, NUL-padded
	ClassicFrame  = 1024                         // bytes of a whole frame
	ClassicText   = ClassicFrame - ClassicHeader // bytes of arguments in one frame
)

// Classic is one frame of the classic protocol.
type Classic struct {
	Command string // without padding; not necessarily one that exists
	Args    string // everything after the header, without padding, commas included
}

// Errors of [ClassicReader.Next] after which reading can go on, because the bad
// frame has been skipped. Each matches ErrClassic. They deserve a "notok".
var (
	ErrClassic        = errors.New("bad classic frame")
	ErrClassicTooLong = fmt.Errorf("%w: longer than %d bytes", ErrClassic, ClassicFrame)
	ErrClassicHeader  = fmt.Errorf("%w: no command in its first %d bytes", ErrClassic, ClassicHeader)
	ErrClassicText    = fmt.Errorf("%w: not valid UTF-8", ErrClassic)
)

// ErrClassicGarbage ends a stream that goes on and on without a frame in it.
var ErrClassicGarbage = errors.New("no classic frame in sight")

// ClassicWait says what a [ClassicReader] is about to wait for.
type ClassicWait int

const (
	// WaitFrame: nothing of the next frame is there. No limit needed.
	WaitFrame ClassicWait = iota
	// WaitRest: a frame has begun and cannot be complete. Announced once per
	// frame; a time-out makes Next fail.
	WaitRest
	// WaitMore: the frame may be complete as it stands. A time-out completes it,
	// so the wait should be as short as a gap between two segments.
	WaitMore
	// WaitLikely: as WaitMore, but more is likely to come: a header without the
	// arguments that its command needs, or what looks like half a header.
	WaitLikely
)

// Limit is how long to wait: 0 (for ever) for WaitFrame, frame for WaitRest,
// 2 ms for WaitMore, 200 ms for WaitLikely.
func (w ClassicWait) Limit(frame time.Duration) time.Duration {
	switch w {
	case WaitRest:
		return frame
	case WaitMore:
		return 2 * time.Millisecond
	case WaitLikely:
		return 200 * time.Millisecond
	}
	return 0
}

// AppendClassic appends one frame of 1,024 bytes. Arguments that are too long
// are cut at a character border.
func AppendClassic(dst []byte, command, args string) []byte {
	dst, _ = appendClassic(dst, command, printable(args))
	return dst
}

// AppendClassicText appends as many frames as the text needs, at least one, cut
// at character borders.
func AppendClassicText(dst []byte, command, text string) []byte {
	dst, rest := appendClassic(dst, command, printable(text))
	for rest != "" {
		dst, rest = appendClassic(dst, command, rest)
	}
	return dst
}

// AppendClassicList appends as many frames as the names need, at least one,
// joined by commas and cut between two names.
func AppendClassicList(dst []byte, command string, names []string) []byte {
	for {
		n, size := 0, 0
		for n < len(names) && (n == 0 || size+1+len(names[n]) <= ClassicText) {
			if n > 0 {
				size++ // the comma
			}
			size += len(names[n])
			n++
		}
		dst = AppendClassic(dst, command, strings.Join(names[:n], ","))
		if names = names[n:]; len(names) == 0 {
			return dst
		}
	}
}

// appendClassic appends one frame and returns the arguments that did not fit.
func appendClassic(dst []byte, command, args string) (frame []byte, rest string) {
	if len(command) > ClassicHeader {
		panic("wire: classic command longer than its header: " + command)
	}
	n := len(args)
	if n > ClassicText {
		for n = ClassicText; n > ClassicText-utf8.UTFMax && !utf8.RuneStart(args[n]); n-- {
		}
	}
	start := len(dst)
	dst = append(dst, zeros[:]...)
	copy(dst[start:], command)
	copy(dst[start+ClassicHeader:], args[:n])
	return dst, args[n:]
}

var zeros [ClassicFrame]byte

// printable makes NULs in a text visible: on the wire they would end it.
func printable(text string) string { return strings.ReplaceAll(text, "\x00", "\uFFFD") }

// ParseClassic reads one whole frame of 1,024 bytes, as a server sends it.
func ParseClassic(frame []byte) (Classic, error) {
	if len(frame) != ClassicFrame {
		return Classic{}, fmt.Errorf("%w: %d bytes instead of %d", ErrClassic, len(frame), ClassicFrame)
	}
	text := frame[ClassicHeader:]
	if i := bytes.IndexByte(text, 0); i >= 0 {
		text = text[:i]
	}
	return parseClassic(frame[:ClassicHeader], text)
}

func parseClassic(header, text []byte) (Classic, error) {
	n := commandLen(header)
	switch {
	case n == 0 || !utf8.Valid(header[:n]):
		return Classic{}, ErrClassicHeader
	case !utf8.Valid(text):
		return Classic{}, ErrClassicText
	}
	return Classic{Command: string(header[:n]), Args: string(text)}, nil
}

// commandLen is the length of the command in a whole header; 0 if there is
// something behind its padding, or no padding at all and so no end.
func commandLen(header []byte) int {
	n := bytes.IndexByte(header, 0)
	if n < 0 || len(bytes.Trim(header[n:], "\x00")) > 0 {
		return 0
	}
	return n
}
