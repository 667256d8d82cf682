//go:build unix

package transport

import (
	"io"
	"net"

	"golang.org/x/sys/unix"
)

const canPeek = true

// peek fills p with what comes first on a connection and leaves it there. It
// waits until there are more than have bytes, the stream ends or the read
// deadline passes. An end behind some bytes is not noticed before the deadline.
func peek(tcp *net.TCPConn, p []byte, have int) (n int, err error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	e := raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_PEEK)
		for err == unix.EINTR {
			n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_PEEK)
		}
		// Waiting ends with the next event, which is one of something new.
		return err != unix.EAGAIN && (err != nil || n == 0 || n > have)
	})
	switch {
	case e != nil:
		return 0, e
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
