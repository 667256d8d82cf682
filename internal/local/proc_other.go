//go:build !unix

package local

import (
	"os/exec"
	"syscall"
)

// Without Unix signals a stop is a kill, and a pause is an error.
const (
	sigTerm = syscall.SIGKILL
	sigStop = syscall.Signal(19)
	sigCont = syscall.Signal(18)
)

func tieToParent(*exec.Cmd) {}

func endedBy(err error, _ syscall.Signal) bool { return err != nil } // a stop is a kill
