package local

import (
	"errors"
	"os/exec"
	"runtime"
)

var errClosed = errors.New("the cluster is closed")

// starter starts all processes from one thread that lives as long as the
// cluster does: where the system kills a process when the thread that started
// it ends (Linux), nothing outlives the cluster, however this process dies.
func (c *Cluster) starter() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	for open := true; open; {
		select {
		case start := <-c.starts:
			start()
		case <-c.closing:
			open = false
		}
	}
	close(c.noStarts)
	<-c.killed
}

func (c *Cluster) startOnThread(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	select {
	case c.starts <- func() { result <- cmd.Start() }:
		return <-result
	case <-c.closing:
		return errClosed
	}
}

// Close kills what still runs and ends the cluster's goroutines. No process is
// left when it returns.
func (c *Cluster) Close() {
	c.close.Do(func() {
		close(c.closing)
		<-c.noStarts
		c.Kill()
		close(c.killed)
	})
	c.goroutines.Wait()
}
