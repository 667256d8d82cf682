package main

import (
	"os"
	"runtime"
)

// leastProcs is on how many threads a node may run Go code at a time, at least.
const leastProcs = 8

// spread gives a node on a machine with few processors more places to run Go code
// than there are processors. What other programs take away, they take from a thread
// for some time, and everything that is queued at its place waits for it: with two
// places that is half the node, heartbeats included (ADR 63). It leaves a number that
// somebody has chosen, and one below that of the processors, which is a
// container's share: more threads would use that up in bursts.
func spread() {
	if n := runtime.GOMAXPROCS(0); os.Getenv("GOMAXPROCS") == "" && n == runtime.NumCPU() && n < leastProcs {
		runtime.GOMAXPROCS(leastProcs)
	}
}
