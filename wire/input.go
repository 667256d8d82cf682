package wire

import (
	"bufio"
	"net"
	"sync"
	"syscall"
)

// Buffer is a stream of which the beginning can be looked at before it is taken:
// a [bufio.Reader] or an [Input].
type Buffer interface {
	Size() int
	Buffered() int
	Peek(n int) ([]byte, error)
	Discard(n int) (int, error)
	Read(p []byte) (int, error)
}

var (
	_ Buffer = (*bufio.Reader)(nil)
	_ Buffer = (*Input)(nil)
)

// bufferSize is the size of what Buffers lends: room for some hundred commands.
const bufferSize = 16 << 10

// Buffers lends memory to those who have something in it now and then. The zero
// value is ready for use, and safe for concurrent use.
type Buffers struct{ pool sync.Pool }

// Get returns an empty slice with some room.
func (p *Buffers) Get() []byte {
	if b, ok := p.pool.Get().(*[bufferSize]byte); ok {
		return b[:0]
	}
	return make([]byte, 0, bufferSize)
}

// Put takes back what Get has returned. What has grown since is not kept.
func (p *Buffers) Put(b []byte) {
	if cap(b) == bufferSize {
		p.pool.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}

// Input is a [Buffer] over a connection. It borrows memory while there is
// something in it: a connection that waits for its client costs none.
type Input struct {
	nc      net.Conn
	raw     syscall.RawConn       // of a TCP connection, else nil
	take    func(fd uintptr) bool // takeRaw, bound once
	buffers *Buffers
	buf     []byte  // as long as it can be; nil while nothing is buffered
	r, w    int     // buf[r:w] is buffered
	err     error   // why takeRaw has taken nothing
	first   [1]byte // where the first byte goes if raw is nil
}

// NewInput reads from nc with memory from buffers.
func NewInput(nc net.Conn, buffers *Buffers) *Input {
	in := &Input{nc: nc, buffers: buffers}
	if tcp, ok := nc.(*net.TCPConn); ok && canTakeRaw {
		if raw, err := tcp.SyscallConn(); err == nil {
			in.raw, in.take = raw, in.takeRaw
		}
	}
	return in
}

// Size is the most that can be peeked at.
func (in *Input) Size() int { return bufferSize }

// Buffered is how much can be taken without waiting.
func (in *Input) Buffered() int { return in.w - in.r }

// Peek returns the next n bytes, which are good until the next call of another
// method than Buffered. If there are fewer, the error says why.
func (in *Input) Peek(n int) ([]byte, error) {
	if n > bufferSize {
		b, _ := in.Peek(bufferSize)
		return b, bufio.ErrBufferFull
	}
	var err error
	for in.w-in.r < n && err == nil {
		err = in.fill()
	}
	if in.buf == nil {
		return nil, err
	}
	if have := in.w - in.r; have < n {
		return in.buf[in.r:in.w], err
	}
	return in.buf[in.r : in.r+n], nil
}

// Discard skips n bytes that are buffered.
func (in *Input) Discard(n int) (int, error) {
	var err error
	if have := in.w - in.r; n > have {
		n, err = have, bufio.ErrBufferFull
	}
	in.r += n
	if in.r == in.w && in.buf != nil {
		in.buffers.Put(in.buf)
		in.buf, in.r, in.w = nil, 0, 0
	}
	return n, err
}

// Read takes what is buffered, or else reads from the connection.
func (in *Input) Read(p []byte) (int, error) {
	if in.buf == nil {
		return in.nc.Read(p)
	}
	n := copy(p, in.buf[in.r:in.w])
	return in.Discard(n)
}

// fill waits for bytes and puts them behind those that are there.
func (in *Input) fill() error {
	switch {
	case in.buf == nil && in.raw != nil:
		if err := in.raw.Read(in.take); err != nil {
			return err
		}
		return in.err
	case in.buf == nil:
		n, err := in.nc.Read(in.first[:])
		if n > 0 {
			in.buf = in.buffers.Get()[:bufferSize]
			in.buf[0], in.r, in.w = in.first[0], 0, 1
		}
		return err
	case in.r > 0:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	n, err := in.nc.Read(in.buf[in.w:])
	in.w += n
	return err
}
