package main

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	timerSlack   = time.Millisecond      // how late a node's threads may be woken when a timer expires
	linuxDefault = 50 * time.Microsecond // what a process has that nobody has given another one
)

// main begins on the process's first thread, and stays there until slacken is through.
func init() { runtime.LockOSThread() }

// slacken gives a process that is about to run a node more timer slack
// (PR_SET_TIMERSLACK) than the 50 µs that Linux gives to all; another value that
// the process was started with, by systemd's TimerSlackNSec= for one, stays. With
// less, Go's monitor thread, which sleeps 20 µs at a time while anything runs,
// takes a tenth of a busy node's processor time (ADR 62).
//
// The slack is a thread's own and goes to the threads that it makes, and the
// monitor has been there for longer than this program: so the process executes its
// program once more, under the same process id. It does that from its first thread,
// because the kernel keeps only what belongs to the thread that does: the signal at
// the death of the parent (PR_SET_PDEATHSIG), for one, belongs to the first. slacken
// returns if nothing is needed, or possible. It must be called once, by main, before
// signals are caught, or one could get lost in between.
func slacken(runsNode bool) {
	defer runtime.UnlockOSThread()
	if !runsNode {
		return
	}
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || time.Duration(slack) != linuxDefault {
		return
	}
	program, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(program, os.Args, os.Environ()) // if not, it works as it is
}
