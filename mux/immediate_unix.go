//go:build unix

package mux

import "syscall"

const canTryWrite = true

func (w *immediate) tryWrite(fd uintptr) bool {
	n, err := syscall.Write(int(fd), w.b)
	for err == syscall.EINTR {
		n, err = syscall.Write(int(fd), w.b)
	}
	w.n = max(0, n)
	return true
}
