//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// onResize calls f whenever the terminal's window changes its size, until the
// function that it returns is called.
func onResize(f func()) (stop func()) {
	ch := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(ch, syscall.SIGWINCH)
	go func() {
		defer close(done)
		for range ch {
			f()
		}
	}()
	return func() {
		signal.Stop(ch)
		close(ch)
		<-done
	}
}
