package local

import (
	"os/exec"
	"syscall"
)

// tieToParent makes the system kill the process when its parent thread ends,
// and keeps the terminal's Ctrl-C for the parent, which then stops it in order.
func tieToParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
