package wire

import (
	"bytes"
	"errors"
	"io"
	"os"
)

// maxGarbage is how much is skipped in search of the next frame.
const maxGarbage = 64 << 10

// minBuffer is the buffer that a ClassicReader needs: its window and some more.
const minBuffer = 2048

// ClassicReader takes classic frames out of a stream, padded or not, coalesced
// or split. It reads ahead no further than its Buffer does.
type ClassicReader struct {
	// Waiting, if not nil, is called before each read that may block, to set the
	// read deadline ([ClassicWait.Limit]). If it is nil, a frame that may be
	// complete is taken to be.
	Waiting func(ClassicWait)

	br Buffer

	pad   int  // how much padding would make the last frame a whole one, 0 if none
	whole bool // the client pads: wait for whole frames
	mixed bool // it does so sometimes only: never again expect whole frames
}

// NewClassicReader reads from br, whose buffer must hold 2,048 bytes or more
// (bufio's default does). After a hello frame br stands exactly behind its
// 1,024 bytes, so that reading can go on with a [FrameReader].
func NewClassicReader(br Buffer) *ClassicReader {
	if br.Size() < minBuffer {
		panic("wire: buffer too small for classic frames")
	}
	return &ClassicReader{br: br}
}

// Wait waits for the first byte of a frame. Next does so, too, but has more on
// the stack meanwhile.
func (r *ClassicReader) Wait() error {
	if r.br.Buffered() > 0 {
		return nil
	}
	r.waiting(WaitFrame)
	_, err := r.br.Peek(1)
	return err
}

// Next returns the next frame. io.EOF means that the stream ended between two
// frames. Behind an error that matches [ErrClassic] the next frame can be read.
func (r *ClassicReader) Next() (Classic, error) {
	if err := r.skipPadding(); err != nil {
		return Classic{}, err
	}
	announced := false
	for {
		b, _ := r.br.Peek(min(r.br.Buffered(), window)) // no error: it is there
		c := scan(b, r.whole)
		if c.wait == WaitFrame {
			return r.take(b, c)
		}
		if c.wait != WaitRest && r.Waiting == nil {
			return r.take(b, c)
		}
		if c.wait != WaitRest || !announced {
			announced = announced || c.wait == WaitRest
			r.waiting(c.wait)
		}
		n := len(b)
		_, err := r.br.Peek(n + 1)
		b, _ = r.br.Peek(n) // no error: it is there, but may have been moved
		switch {
		case err == nil:
		case !quiet(err):
			return Classic{}, err
		case c.wait != WaitRest:
			return r.take(b, c)
		case r.whole && err != io.EOF && len(b) >= ClassicHeader && !bytes.HasPrefix(b, []byte(CommandHello)):
			r.whole, r.mixed = false, true // an unpadded one after all
		default:
			return Classic{}, cutShort(err, true)
		}
	}
}

// quiet reports whether err says no more than that nothing (more) comes.
func quiet(err error) bool { return err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) }

func (r *ClassicReader) waiting(w ClassicWait) {
	if r.Waiting != nil {
		r.Waiting(w)
	}
}

// skipPadding skips NULs, which are leftover padding in front of a header, and
// waits for the first byte of a frame.
func (r *ClassicReader) skipPadding() error {
	for {
		if err := r.Wait(); err != nil {
			return err
		}
		b, _ := r.br.Peek(r.br.Buffered())
		n := len(b) - len(bytes.TrimLeft(b, "\x00"))
		r.br.Discard(n) //nolint:errcheck // it has just been peeked
		r.padding(n)
		if n < len(b) {
			r.pad = 0
			return nil
		}
	}
}

// padding notes n more bytes of padding behind the last frame.
func (r *ClassicReader) padding(n int) {
	if r.pad > 0 && n >= r.pad {
		r.whole = !r.mixed
	}
	r.pad = max(0, r.pad-n)
}

// take consumes the frame that c cuts off the front of b.
func (r *ClassicReader) take(b []byte, c cut) (Classic, error) {
	if c.tooLong {
		return Classic{}, r.skipGarbage()
	}
	frame, err := parseClassic(b[:ClassicHeader], b[ClassicHeader:c.text])
	r.br.Discard(c.next) //nolint:errcheck // it has just been peeked
	if c.text < c.next {
		r.pad = ClassicFrame - c.text
		r.padding(c.next - c.text)
	}
	return frame, err
}

// skipGarbage skips a frame that is too long: up to a NUL, or to the header that
// the NUL belongs to, or to the end of what comes.
func (r *ClassicReader) skipGarbage() error {
	r.br.Discard(ClassicHeader) //nolint:errcheck // it is there
	for skipped := 0; skipped < maxGarbage; {
		b, _ := r.br.Peek(r.br.Buffered())
		if end := bytes.IndexByte(b, 0); end >= 0 {
			r.br.Discard(end - commandAtEnd(b[:end])) //nolint:errcheck // it has just been peeked
			return ErrClassicTooLong
		}
		n := max(0, len(b)-ClassicHeader) // the rest may be half a header
		r.br.Discard(n)                   //nolint:errcheck // it has just been peeked
		skipped += n
		err := io.EOF
		if r.Waiting != nil {
			r.Waiting(WaitMore)
			_, err = r.br.Peek(len(b) - n + 1)
		}
		if err != nil {
			r.br.Discard(r.br.Buffered()) //nolint:errcheck // it is there
			if !quiet(err) {
				return err
			}
			return ErrClassicTooLong
		}
	}
	return ErrClassicGarbage
}
