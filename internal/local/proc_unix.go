//go:build unix && !linux

package local

import (
	"os/exec"
	"syscall"
)

// tieToParent keeps the terminal's Ctrl-C for the parent, which then stops the
// process in order. Only Linux can kill a process when its parent dies.
func tieToParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
