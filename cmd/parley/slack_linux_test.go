package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTimerSlack: all threads of a node, the runtime's own among them, have more
// timer slack than the system's default, or what they were started with.
func TestTimerSlack(t *testing.T) {
	for name, slack := range map[string]struct{ given, want time.Duration }{
		"default": {linuxDefault, timerSlack},
		"given":   {70 * time.Microsecond, 70 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			runtime.LockOSThread() // for good: it is a thread's own, and so ends with this one
			if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack.given), 0, 0, 0); err != nil {
				t.Fatal(err)
			}
			d := startDev(t, t.TempDir(), "--nodes", "1")
			for _, thread := range threadsOf(t, d.pids[0]) {
				b, err := os.ReadFile("/proc/" + thread + "/timerslack_ns")
				switch {
				case errors.Is(err, syscall.EPERM):
					t.Skip("only who has CAP_SYS_NICE may look at another process's timer slack")
				case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ESRCH): // it has ended
				case err != nil:
					t.Fatal(err)
				case strings.TrimSpace(string(b)) != strconv.FormatInt(int64(slack.want), 10):
					t.Errorf("thread %s has a slack of %s ns, want %d", thread, b, slack.want)
				}
			}
		})
	}
}

// threadsOf returns the ids of a node's threads, of which there are several.
func threadsOf(t *testing.T, pid string) []string {
	t.Helper()
	threads, err := filepath.Glob("/proc/" + pid + "/task/*")
	if err != nil || len(threads) < 3 {
		t.Fatalf("threads %q: %v", threads, err)
	}
	for i, thread := range threads {
		threads[i] = filepath.Base(thread)
	}
	return threads
}
