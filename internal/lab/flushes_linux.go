package lab

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flushes sees every fsync and fdatasync of this process before the kernel does,
// and may refuse it. That is seccomp's user notification: no code that writes
// files has to know. What has been installed stays until the process ends, which
// costs each flush about two changes of thread.
type flushes struct {
	disks
	fd int
}

// watchFlushes begins to watch, once. It must not be called in a bubble first.
var watchFlushes = sync.OnceValues(func() (*flushes, error) {
	fd, err := listenFlushes()
	if err != nil {
		return nil, fmt.Errorf("this process cannot watch its flushes: %w", err)
	}
	// Whoever waits and whoever answers may as well share a processor. Kernels before 6.6 cannot.
	unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifSetFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	f := &flushes{fd: fd}
	go f.serve()
	return f, nil
})

// The structures of seccomp_unotify(2).
type (
	flushAsked struct {
		id         uint64
		pid, flags uint32
		call       int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	flushAnswer struct {
		id    uint64
		value int64
		err   int32
		flags uint32
	}
)

const notifSetFlags = 0x40082104 // SECCOMP_IOCTL_NOTIF_SET_FLAGS

// listenFlushes makes the kernel ask before each flush by any thread.
func listenFlushes() (fd int, err error) {
	const load, ifEqual, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: load}, // the number of the call
		{Code: ifEqual, K: unix.SYS_FSYNC, Jt: 2},
		{Code: ifEqual, K: unix.SYS_FDATASYNC, Jt: 1},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		{Code: answer, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // of which "no new privileges" is true, and then of all
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER |
		unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | // in all threads
		unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV // signals, those of Go's scheduler above all, do not begin the call anew
	n, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// serve answers until the process ends.
func (f *flushes) serve() {
	for {
		var asked flushAsked
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&asked))); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT {
				continue
			}
			panic("lab: waiting for flushes: " + errno.Error()) // all that flush would wait for ever
		}
		reply := flushAnswer{id: asked.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if errno := f.decide(int(asked.pid), int(asked.args[0])); errno != 0 {
			reply.flags, reply.err = 0, -int32(errno)
		}
		// An error is that of a thread that has not waited.
		unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&reply)))
	}
}

// decide asks the disks. An error is what the caller of fsync gets to see.
func (f *flushes) decide(thread, fd int) syscall.Errno {
	if !f.any.Load() {
		return 0
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, fd))
	if err != nil {
		return 0 // the thread has gone
	}
	return f.flush(path)
}
