package main

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// timeSlice is for how long one of a node's threads asks to run at a time.
const timeSlice = 300 * time.Microsecond

// quicken makes the system's fair scheduler run the node's threads sooner after
// they were woken, for shorter turns: the threads' share of the processors stays
// what it is (ADR 64). New threads take over what the one that makes them has. It
// leaves threads that somebody has given another policy, or a shorter slice, and
// does nothing before Linux 6.12, where slices cannot be chosen.
func quicken() {
	seen := map[string]bool{}
	for more := true; more; { // until there is no thread that a slower one has made meanwhile
		more = false
		threads, _ := os.ReadDir("/proc/self/task") // without them, nothing changes
		for _, thread := range threads {
			if seen[thread.Name()] {
				continue
			}
			seen[thread.Name()], more = true, true
			if id, err := strconv.Atoi(thread.Name()); err == nil {
				shortSlice(id)
			}
		}
	}
}

// shortSlice gives one thread the shorter slice, unless it has ended.
func shortSlice(thread int) {
	attr, err := unix.SchedGetAttr(thread, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL || attr.Runtime <= uint64(timeSlice) { // 0: cannot be chosen
		return
	}
	attr.Runtime = uint64(timeSlice)
	_ = unix.SchedSetAttr(thread, attr, 0) // if not, it works as it is
}
