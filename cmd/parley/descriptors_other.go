//go:build !unix

package main

// descriptorLimit is unknown here.
func descriptorLimit() (limit uint64, ok bool) { return 0, false }
