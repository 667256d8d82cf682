//go:build !unix

package main

// onResize does nothing where the window's size is not signalled.
func onResize(func()) (stop func()) { return func() {} }
