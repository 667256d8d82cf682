//go:build unix

package store

import (
	"os/exec"
	"testing"
	"time"
)

// A process that is stopped in the middle of an operation does not blame the disk.
func TestStoppedProcessIsNoHang(t *testing.T) {
	g := &guard{timeout: time.Second, fatal: func(err error) { t.Error(err) }}
	g.armed.Store(true)
	done := make(chan error, 1)
	go func() {
		done <- g.do("syncing", exec.Command("sh", "-c", "kill -STOP $PPID; sleep 1.5; kill -CONT $PPID").Run)
		close(done)
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the operation's goroutine has ended")
	}
}
