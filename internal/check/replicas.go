package check

import (
	"fmt"
	"sync"
)

// Replicas compares what the members of a cluster say about themselves: at the
// same place in the log they have the same state and the same entry, and no two
// lead in one term. It is safe for concurrent use.
type Replicas struct {
	mu       sync.Mutex
	states   map[uint64]replicaState // by log index
	leaders  map[uint64]string       // by term
	entries  map[slot]replicaEntry
	settled  map[uint64]replicaEntry // committed, by log index
	problems []string
	more     int // problems that are not described
}

type replicaState struct{ member, sum string }

// slot is where an entry is: at most one leader has put one there.
type slot struct{ index, term uint64 }

type replicaEntry struct {
	member string
	term   uint64
	sum    uint32
}

// NewReplicas returns an empty Replicas.
func NewReplicas() *Replicas {
	return &Replicas{
		states: make(map[uint64]replicaState), leaders: make(map[uint64]string),
		entries: make(map[slot]replicaEntry), settled: make(map[uint64]replicaEntry),
	}
}

// State records the checksum over a member's state after the entry at index.
func (r *Replicas) State(member string, index uint64, sum string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, ok := r.states[index]
	switch {
	case !ok:
		r.states[index] = replicaState{member, sum}
	case first.sum != sum:
		r.describe("at index %d %s has state %.12s, %s had %.12s", index, member, sum, first.member, first.sum)
	}
}

// Entry records an entry in a member's log, by a checksum over what is in it.
// committed says that it is committed, as far as this is known: then every member
// must have the same. Of those that are not, members may have different ones, but
// not of the same term.
func (r *Replicas) Entry(member string, index, term uint64, sum uint32, committed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := replicaEntry{member, term, sum}
	at := slot{index, term}
	if first, ok := r.entries[at]; !ok {
		r.entries[at] = e
	} else if first.sum != sum {
		r.describe("%s has entry %d of term %d with checksum %08x, %s with %08x", member, index, term, sum, first.member, first.sum)
	}
	if !committed {
		return
	}
	if first, ok := r.settled[index]; !ok {
		r.settled[index] = e
	} else if first.term != term {
		r.describe("%s has entry %d of term %d, %s of term %d, and both are committed", member, index, term, first.member, first.term)
	}
}

// Leads records that a member acts as the leader of a term.
func (r *Replicas) Leads(member string, term uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, ok := r.leaders[term]
	switch {
	case !ok:
		r.leaders[term] = member
	case first != member:
		r.describe("%s and %s both lead in term %d", first, member, term)
	}
}

// Compared counts what a Replicas has been told.
type Compared struct {
	Terms   int // that had a leader
	States  int // places in the log for which there is a state
	Entries int // different entries
}

// Compared is what there was to compare.
func (r *Replicas) Compared() Compared {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Compared{len(r.leaders), len(r.states), len(r.entries)}
}

// Problems describes the first things that went wrong, in words.
func (r *Replicas) Problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	problems := append([]string(nil), r.problems...)
	if r.more > 0 {
		problems = append(problems, fmt.Sprintf("and %d more differences between members", r.more))
	}
	return problems
}

// describe keeps the first problems. mu is held.
func (r *Replicas) describe(format string, args ...any) {
	if len(r.problems) >= maxProblems {
		r.more++
		return
	}
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}
