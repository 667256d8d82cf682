package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/parley-chat/parley"
)

// DefaultMaxFrame is the usual limit for the bytes behind the length prefix.
const DefaultMaxFrame = 128 << 10

const (
	prefix   = 4 // bytes of the length
	minFrame = 2 // kind and id
	// keep is the largest buffer that a FrameReader holds on to between frames.
	keep = 32 << 10
)

// Kind says what a frame is. The numbers are part of the protocol.
type Kind uint8

// From client to server.
const (
	KindDo     Kind = 1 // Request; answered by KindResult or KindError
	KindGet    Kind = 2 // Query; answered by KindResult or KindError
	KindWatch  Kind = 3 // User, After, Credit; answered by KindPush… and at last KindError
	KindCredit Kind = 4 // Credit more messages for watch ID
	KindCancel Kind = 5 // ends watch ID; not answered
	KindCall   Kind = 6 // Method, Body (members only); answered by KindReply or KindError
	KindLogin  Kind = 7 // Login; answered by KindResult or KindError
)

// From server to client.
const (
	KindResult   Kind = 16 // Result
	KindError    Kind = 17 // Err; with ID 0 it is about the connection
	KindPush     Kind = 18 // Messages
	KindReply    Kind = 19 // Body
	KindRedirect Kind = 20 // Group, Node, Addr; ID 0
)

// Either way.
const (
	KindPing Kind = 32 // answered by KindPong with the same ID
	KindPong Kind = 33
)

// Frame is one frame of the framed protocol. Only the fields named at its Kind
// mean anything.
type Frame struct {
	Kind     Kind
	ID       uint64
	Request  parley.Request
	Query    parley.Query
	User     string
	After    parley.Cursor
	Credit   uint64
	Result   parley.Result
	Err      *parley.Error
	Messages []parley.Message
	Group    uint64
	Node     string
	Addr     string
	Method   string
	Body     []byte
	Login    parley.Credentials // without Address
}

// What is wrong with a frame.
var (
	// ErrTooLarge: the length prefix is beyond the limit. Nothing behind it has
	// been read; the stream cannot be read any further.
	ErrTooLarge = errors.New("frame too large")
	// ErrMalformed: the bytes are not what the kind says. The stream should not be
	// trusted any further.
	ErrMalformed = errors.New("malformed frame")
	// ErrUnsupported: a kind of frame, command or query that this version does not
	// know. Kind and ID of the Frame are set, the frame has been skipped, and
	// reading can go on.
	ErrUnsupported = errors.New("unsupported frame")
)

// FrameReader reads frames. A frame that fits into the buffered reader's own
// buffer is decoded in place.
type FrameReader struct {
	br  Buffer
	max int
	len int    // of the last frame
	buf []byte // for frames that do not fit into br
}

// NewFrameReader reads from br frames of at most max bytes behind the length
// prefix; 0 means [DefaultMaxFrame].
func NewFrameReader(br Buffer, max int) *FrameReader {
	if max <= 0 {
		max = DefaultMaxFrame
	}
	return &FrameReader{br: br, max: max}
}

// Len is the number of bytes behind the length prefix of the last frame read.
func (r *FrameReader) Len() int { return r.len }

// Ready reports whether Read would return without waiting for bytes.
func (r *FrameReader) Ready() bool {
	have := r.br.Buffered()
	if have < prefix {
		return false
	}
	head, _ := r.br.Peek(prefix) // no error: it is there
	size := binary.BigEndian.Uint32(head)
	return uint64(size) <= uint64(have-prefix) || uint64(size) > uint64(r.max)
}

// Wait waits for the first byte of a frame. Read does so, too; but who has
// nothing else to do may not want to keep a Frame meanwhile.
func (r *FrameReader) Wait() error {
	_, err := r.br.Peek(1)
	return err
}

// Read overwrites f with the next frame. What f points to afterwards is not
// touched by later reads. io.EOF means that the stream ended between two frames.
func (r *FrameReader) Read(f *Frame) error {
	head, err := r.br.Peek(prefix)
	if err != nil {
		return cutShort(err, len(head) > 0)
	}
	size := binary.BigEndian.Uint32(head)
	switch {
	case uint64(size) > uint64(r.max):
		return fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, size, r.max)
	case size < minFrame:
		return fmt.Errorf("%w: %d bytes, at least %d", ErrMalformed, size, minFrame)
	}
	n := int(size)
	r.len = n
	if prefix+n > r.br.Size() {
		return r.readLarge(f, n)
	}
	b, err := r.br.Peek(prefix + n)
	if err != nil {
		return cutShort(err, true)
	}
	err = parseFrame(f, b[prefix:])
	r.br.Discard(prefix + n) //nolint:errcheck // it has just been peeked
	return err
}

// readLarge reads a frame that does not fit into br's buffer. The memory grows
// with what has arrived, not with what the length prefix promises.
func (r *FrameReader) readLarge(f *Frame, n int) error {
	r.br.Discard(prefix) //nolint:errcheck // it has just been peeked
	b := r.buf[:0]
	for len(b) < n {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(n, max(4096, 2*cap(b))))
			copy(grown, b)
			b = grown
		}
		m, err := r.br.Read(b[len(b):min(cap(b), n)])
		b = b[:len(b)+m]
		if err != nil {
			return cutShort(err, true)
		}
	}
	if r.buf = b; cap(b) > keep {
		r.buf = nil
	}
	return parseFrame(f, b)
}

// cutShort turns the end of the stream within a frame into io.ErrUnexpectedEOF.
func cutShort(err error, within bool) error {
	if err == io.EOF && within {
		return io.ErrUnexpectedEOF
	}
	return err
}

// AppendFrame appends a frame with its length prefix. It fails, with dst as it
// was, for a kind, command or query that it does not know. Limits on the size
// are the caller's.
func AppendFrame(dst []byte, f *Frame) ([]byte, error) {
	start := len(dst)
	b := begin(dst, f.Kind, f.ID)
	ok := true
	switch f.Kind {
	case KindDo:
		b, ok = appendRequest(b, &f.Request)
	case KindGet:
		b, ok = appendQuery(b, f.Query)
	case KindWatch:
		b = appendCursor(appendRaw(b, f.User), f.After)
		b = binary.AppendUvarint(b, f.Credit)
	case KindCredit:
		b = binary.AppendUvarint(b, f.Credit)
	case KindCancel, KindPing, KindPong:
	case KindCall:
		b = appendBytes(appendText(b, f.Method), f.Body)
	case KindLogin:
		b = appendRaw(appendRaw(appendRaw(b, f.Login.User), string(f.Login.Password)), string(f.Login.Token))
	case KindResult:
		b = appendResult(b, &f.Result)
	case KindError:
		if ok = f.Err != nil; ok {
			b = appendErr(b, f.Err)
		}
	case KindPush:
		b = appendMessages(b, f.Messages)
	case KindReply:
		b = appendBytes(b, f.Body)
	case KindRedirect:
		b = appendText(appendText(binary.AppendUvarint(b, f.Group), f.Node), f.Addr)
	default:
		ok = false
	}
	if !ok {
		return dst, fmt.Errorf("%w: kind %d, %T, %T", ErrUnsupported, f.Kind, f.Request.Command, f.Query)
	}
	if uint64(len(b)-start-prefix) > math.MaxUint32 {
		return dst, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b)-start-prefix)
	}
	return end(b, start), nil
}

// AppendDo is [AppendFrame] for a KindDo.
func AppendDo(dst []byte, id uint64, r *parley.Request) ([]byte, error) {
	b, ok := appendRequest(begin(dst, KindDo, id), r)
	if !ok {
		return dst, fmt.Errorf("%w: command %T", ErrUnsupported, r.Command)
	}
	return end(b, len(dst)), nil
}

// AppendResult is [AppendFrame] for a KindResult.
func AppendResult(dst []byte, id uint64, r *parley.Result) []byte {
	return end(appendResult(begin(dst, KindResult, id), r), len(dst))
}

// AppendError is [AppendFrame] for a KindError. An error without a code in its
// chain is sent as CodeInterrupted.
func AppendError(dst []byte, id uint64, err error) []byte {
	var e *parley.Error
	if !errors.As(err, &e) {
		e = &parley.Error{Code: parley.CodeOf(err), Detail: err.Error()}
	}
	return end(appendErr(begin(dst, KindError, id), e), len(dst))
}

func begin(dst []byte, k Kind, id uint64) []byte {
	return binary.AppendUvarint(append(dst, 0, 0, 0, 0, byte(k)), id)
}

// end writes the length of the frame that starts at start.
func end(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-prefix))
	return b
}

// parseFrame decodes what is behind the length prefix.
func parseFrame(f *Frame, b []byte) error {
	*f = Frame{Kind: Kind(b[0])}
	d := fields{b: b[1:]}
	f.ID = d.uvarint()
	known := true
	switch f.Kind {
	case KindDo:
		known = d.request(&f.Request)
	case KindGet:
		f.Query, known = d.query()
	case KindWatch:
		f.User, f.After, f.Credit = d.raw(), d.cursor(), d.uvarint()
	case KindCredit:
		f.Credit = d.uvarint()
	case KindCancel, KindPing, KindPong:
	case KindCall:
		f.Method, f.Body = d.text(), d.bytes()
	case KindLogin:
		f.Login = parley.Credentials{User: d.raw(), Password: parley.Secret(d.raw()), Token: parley.Secret(d.raw())}
	case KindResult:
		d.result(&f.Result)
	case KindError:
		f.Err = d.err()
	case KindPush:
		f.Messages = d.messages()
	case KindReply:
		f.Body = d.bytes()
	case KindRedirect:
		f.Group, f.Node, f.Addr = d.uvarint(), d.text(), d.text()
	default:
		known = false
	}
	switch {
	case d.bad != "":
		return fmt.Errorf("%w: kind %d: %s", ErrMalformed, f.Kind, d.bad)
	case !known:
		return fmt.Errorf("%w: kind %d", ErrUnsupported, f.Kind)
	case len(d.b) != 0:
		return fmt.Errorf("%w: kind %d: %d bytes left over", ErrMalformed, f.Kind, len(d.b))
	}
	return nil
}
