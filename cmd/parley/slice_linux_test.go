package main

import (
	"errors"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTimeSlice: all threads of a node ask for a shorter slice than the system's.
func TestTimeSlice(t *testing.T) {
	own, err := unix.SchedGetAttr(0, 0)
	switch {
	case err != nil:
		t.Skipf("no scheduling attributes here: %v", err)
	case own.Policy != unix.SCHED_NORMAL, own.Runtime <= uint64(timeSlice):
		t.Skipf("policy %d with a slice of %v: nothing to shorten", own.Policy, time.Duration(own.Runtime))
	}
	d := startDev(t, t.TempDir(), "--nodes", "1")
	for _, thread := range threadsOf(t, d.pids[0]) {
		id, err := strconv.Atoi(thread)
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(id, 0)
		switch {
		case errors.Is(err, syscall.ESRCH): // it has ended
		case err != nil:
			t.Fatal(err)
		case attr.Runtime != uint64(timeSlice) || attr.Nice != own.Nice || attr.Policy != own.Policy:
			t.Errorf("thread %d has slice %v, nice %d, policy %d; want %v, %d, %d", id, time.Duration(attr.Runtime), attr.Nice, attr.Policy, timeSlice, own.Nice, own.Policy)
		}
	}
}
