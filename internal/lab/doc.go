// Package lab breaks clusters on purpose. An Episode runs three or five members
// in this process, over a network in memory and real files, keeps them busy, lets
// faults happen to them, and asks the checkers of package check what they think.
// In a testing/synctest bubble its time is virtual: half a minute of a cluster's
// life takes about a second, however busy the machine is.
//
// What happens follows from the episode's seed: the load, the faults, and when.
// The order in which goroutines run does not, nor do Raft's random time-outs, so
// the same seed is the same episode only nearly.
//
// What it cannot do: a disk is never slow, since a system call is no wait in
// virtual time. Package test does such things to real processes. See
// docs/reliability.md.
package lab
