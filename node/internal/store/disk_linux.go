package store

import (
	"errors"
	"os"
	"syscall"
)

// allocate gives an empty file its size, with blocks behind it where the file
// system can.
func allocate(f *os.File, size int64) error {
	err := onDescriptor(f, func(fd int) error { return syscall.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return f.Truncate(size)
	}
	return err
}

// syncData makes what was written to a file durable, and its size if that has
// changed, but not its times, which would cost a second write.
func syncData(f *os.File) error { return onDescriptor(f, syscall.Fdatasync) }

func onDescriptor(f *os.File, call func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	outer := c.Control(func(fd uintptr) {
		for err = call(int(fd)); err == syscall.EINTR; err = call(int(fd)) {
		}
	})
	return errors.Join(outer, err)
}
