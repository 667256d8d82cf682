package faultfs

import (
	"syscall"
	"time"
)

// Trouble is what goes wrong with a disk.
type Trouble struct {
	On    Kind
	Err   syscall.Errno // 0: none
	Delay time.Duration // before the operation
}

// Kind is a set of kinds of operations.
type Kind uint8

// The kinds of operations.
const (
	Reads  Kind = 1 << iota
	Writes      // and truncations
	Syncs       // of files and directories
	Names       // files and directories are made, removed, renamed
)
