//go:build !unix

package mux

const canTryWrite = false

func (w *immediate) tryWrite(uintptr) bool { return true }
