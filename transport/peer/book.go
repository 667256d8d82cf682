package peer

import (
	"slices"
	"sync"
)

// book says where members live. The zero value is ready; safe for concurrent use.
type book struct {
	mu      sync.Mutex
	entries map[string]entry
}

// entry is what is known about one member; "" where nothing is.
type entry struct {
	fixed   string // from the command line
	learned string // from the cluster
	good    string // the one of the two under which it was reached last
}

func (b *book) fix(name, addr string) {
	b.update(name, func(e *entry) { e.fixed = addr })
}

// learn reports whether that changed anything.
func (b *book) learn(name, addr string) bool {
	return b.update(name, func(e *entry) { e.learned = addr })
}

// worked notes under which address a member was reached.
func (b *book) worked(name, addr string) {
	b.update(name, func(e *entry) { e.good = addr })
}

func (b *book) update(name string, change func(*entry)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries == nil {
		b.entries = make(map[string]entry)
	}
	old := b.entries[name]
	e := old
	change(&e)
	if e.good != e.fixed && e.good != e.learned {
		e.good = "" // no longer an address of its own
	}
	b.entries[name] = e
	return e != old
}

// addrs returns the addresses to try, the most promising first.
func (b *book) addrs(name string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[name]
	var list []string
	for _, a := range []string{e.good, e.learned, e.fixed} {
		if a != "" && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// proven returns the address at which a member has been reached, or else all
// that are known.
func (b *book) proven(name string) []string {
	b.mu.Lock()
	good := b.entries[name].good
	b.mu.Unlock()
	if good != "" {
		return []string{good}
	}
	return b.addrs(name)
}
