//go:build unix

package main

import "syscall"

// descriptorLimit is how many files this process may have open (RLIMIT_NOFILE, which
// Go has raised as far as it may be).
func descriptorLimit() (limit uint64, ok bool) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, false
	}
	return uint64(r.Cur), true
}
