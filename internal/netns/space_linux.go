package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// newSpace makes a namespace.
func newSpace() (s *space, err error) {
	onThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("unshare: %w", err)
			return
		}
		var f *os.File
		if f, err = os.Open("/proc/thread-self/ns/net"); err == nil {
			s = &space{ns: f}
		}
	})
	return s, err
}

// do calls f on a thread in the namespace: sockets and processes that it makes
// belong there for good.
func (s *space) do(f func()) (err error) {
	onThread(func() {
		if err = unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("setns: %w", err)
			return
		}
		f()
	})
	return err
}

// onThread calls f on a thread that nobody else uses, and that ends afterwards.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		f()
	}()
	<-done
}
