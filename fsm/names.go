package fsm

import (
	"cmp"
	"slices"
	"strings"
	"sync"
)

// nameChange says that a user came or went.
type nameChange struct {
	name, shown string
	place       uint32 // in the order of changes
	gone        bool
}

// nameIndex is the name changes of a generation in the order of names. They are
// sorted when somebody asks, and only those that are new since then. It is safe
// for concurrent use.
type nameIndex struct {
	mu   sync.Mutex
	n    int            // so many changes are in the runs
	runs [][]nameChange // sorted, one change for each name, the newest run last; they are replaced, never changed
}

// update takes in changes, all those of the generation so far, and returns the
// runs. If another update knew more changes, they are in them, too: the result is
// the names as they were at some instant from the call on.
func (x *nameIndex) update(changes []nameChange) [][]nameChange {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.n < len(changes) {
		x.runs = append(slices.Clip(x.runs), sortChanges(changes[x.n:]))
		x.n = len(changes)
	}
	for k := len(x.runs); k > 1 && len(x.runs[k-2]) < 2*len(x.runs[k-1]); k-- {
		x.runs = append(slices.Clip(x.runs[:k-2]), mergeChanges(x.runs[k-2], x.runs[k-1]))
	}
	return x.runs
}

// sortChanges returns the changes in the order of names, for each name the last.
func sortChanges(changes []nameChange) []nameChange {
	sorted := slices.Clone(changes)
	slices.SortFunc(sorted, func(a, b nameChange) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(b.place, a.place))
	})
	return slices.CompactFunc(sorted, func(a, b nameChange) bool { return a.name == b.name })
}

// mergeChanges merges two runs.
func mergeChanges(older, newer []nameChange) []nameChange {
	merged := make([]nameChange, 0, len(older)+len(newer))
	for len(older) > 0 && len(newer) > 0 {
		switch c := strings.Compare(older[0].name, newer[0].name); {
		case c < 0:
			merged, older = append(merged, older[0]), older[1:]
		case c > 0:
			merged, newer = append(merged, newer[0]), newer[1:]
		default:
			older = older[1:]
		}
	}
	return append(append(merged, older...), newer...)
}

// names is several runs as one. Of changes to one name the last one counts.
type names struct {
	runs [][]nameChange // what is left of each, oldest first; none is empty
}

// add puts runs after those there are, without what is before a key.
func (n *names) add(runs [][]nameChange, from string) {
	for _, run := range runs {
		at, _ := slices.BinarySearchFunc(run, from, func(c nameChange, key string) int { return strings.Compare(c.name, key) })
		if run = run[at:]; len(run) > 0 {
			n.runs = append(n.runs, run)
		}
	}
}

// peek returns the first name and its change; nil if there is none left.
func (n *names) peek() *nameChange {
	var first *nameChange
	for _, run := range n.runs {
		if first == nil || run[0].name <= first.name {
			first = &run[0]
		}
	}
	return first
}

// next goes on behind a name.
func (n *names) next(name string) {
	left := n.runs[:0]
	for _, run := range n.runs {
		if run[0].name == name {
			run = run[1:]
		}
		if len(run) > 0 {
			left = append(left, run)
		}
	}
	n.runs = left
}
