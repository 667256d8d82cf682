package fsm

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parley-chat/parley"
)

// TestDirectory: users are found by their names, also those whose names have the
// same hash or parts of it, and what is removed is used again.
func TestDirectory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 22))
	seeded := newDirectory().hash
	for what, hash := range map[string]func(string) uint64{
		"any hash":       seeded,
		"one table":      func(name string) uint64 { return seeded(name) >> 8 },
		"few homes":      func(name string) uint64 { return seeded(name) >> 61 << 4 },
		"the last homes": func(name string) uint64 { return seeded(name) | 0xffff_fff8 },
		"the same hash":  func(name string) uint64 { return uint64(len(name)) },
	} {
		table := newDirectory()
		table.hash = hash
		shown := func(name string, n parley.Incarnation) string { return strings.Repeat(name, 1+int(n)%2) }
		want := make(map[string]parley.Incarnation)
		most := 0
		for n := range parley.Incarnation(4000) {
			name := strings.Repeat(fmt.Sprint(rng.IntN(600)), 1+rng.IntN(2))
			a := table.get(name)
			if (a != nil) != (want[name] != 0) || a != nil && a.incarnation != want[name] {
				t.Fatalf("%s: %s: %+v, want %d", what, name, a, want[name])
			}
			if a != nil {
				if key, as := table.names(a); key != name || as != shown(name, want[name]) {
					t.Fatalf("%s: %s is %s, shown as %s", what, name, key, as)
				}
				table.remove(a)
				delete(want, name)
				continue
			}
			table.add(name, shown(name, n+1), user{incarnation: n + 1})
			want[name] = n + 1
			most = max(most, len(want))
		}
		for name, n := range want {
			if a := table.get(name); a == nil || a.incarnation != n {
				t.Fatalf("%s: in the end: %s: %+v, want %d", what, name, a, n)
			}
		}
		if n := len(table.rooms); n > most/roomAccounts+1 {
			t.Errorf("%s: %d rooms for %d users", what, n, most)
		}
		used := 0
		for i := range table.index {
			used += table.index[i].used
		}
		if used != len(want) {
			t.Errorf("%s: the index has %d users, there are %d", what, used, len(want))
		}
		for _, r := range table.rooms {
			if 2*r.gone > len(r.texts)+2*maxName || cap(r.texts) > 1<<15 {
				t.Errorf("%s: %d of %d bytes of texts are nobody's", what, r.gone, len(r.texts))
			}
		}
	}
}

// TestNoPointers: an account has none, and in a room they come first. See directory.
func TestNoPointers(t *testing.T) {
	var plain func(typ reflect.Type) bool
	plain = func(typ reflect.Type) bool {
		switch typ.Kind() {
		case reflect.Struct:
			for i := range typ.NumField() {
				if !plain(typ.Field(i).Type) {
					return false
				}
			}
			return true
		case reflect.Array:
			return plain(typ.Elem())
		}
		return typ.Kind() >= reflect.Bool && typ.Kind() <= reflect.Complex128
	}
	if !plain(reflect.TypeFor[account]()) {
		t.Error("an account has a pointer")
	}
	if f := reflect.TypeFor[room]().Field(0); f.Name != "texts" {
		t.Errorf("a room begins with %s", f.Name)
	}
}

// TestPositions: few or many, they are those that were put there.
func TestPositions(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 22))
	table := newDirectory()
	var accounts []*account
	for i := range 3 {
		accounts = append(accounts, table.add(fmt.Sprint(i), "x", user{}))
	}
	want := make([][]uint64, len(accounts))
	for pos := range uint64(60_000) {
		i := rng.IntN(len(accounts))
		a, mine := accounts[i], want[i]
		if rng.IntN(4) > 0 || pos/600%2 == 0 {
			table.push(a, pos)
			mine = append(mine, pos)
		}
		if rng.IntN(3) == 0 || pos/600%2 == 1 {
			n := rng.IntN(min(len(mine), 4) + 1)
			if rng.IntN(500) == 0 {
				n = len(mine)
			}
			table.drop(a, n)
			mine = mine[n:]
		}
		want[i] = mine
		if pos%7 == 0 && !slices.Equal(positionsOf(table, a), mine) {
			t.Fatalf("%v, want %v", positionsOf(table, a), mine)
		}
		if a.many != 0 && cap(table.queues[a.many-1].buf) > 64+16*len(mine) {
			t.Fatalf("room for %d positions, there are %d", cap(table.queues[a.many-1].buf), len(mine))
		}
	}
	if n := len(table.queues); n > len(accounts) {
		t.Errorf("%d queues for %d mailboxes", n, len(accounts))
	}
}
