//go:build unix

package wire

import (
	"io"
	"os"
	"syscall"
)

const canTakeRaw = true

// takeRaw reads what a socket has to give, into memory that it borrows only if
// there is something. It returns false to be called again when there is.
func (in *Input) takeRaw(fd uintptr) bool {
	b := in.buffers.Get()[:bufferSize]
	n, err := syscall.Read(int(fd), b)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), b)
	}
	if n > 0 {
		in.buf, in.r, in.w, in.err = b, 0, n, nil
		return true
	}
	in.buffers.Put(b)
	switch err {
	case nil:
		in.err = io.EOF
	case syscall.EAGAIN:
		return false
	default:
		in.err = os.NewSyscallError("read", err)
	}
	return true
}
