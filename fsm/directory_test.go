package fsm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/parley-chat/parley"
)

// TestDirectory: users are found by their names, also those whose names have the
// same hash, and what is removed is used again.
func TestDirectory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 22))
	for _, hash := range []func(string) uint64{nil, func(name string) uint64 { return uint64(len(name)) }} {
		table := newDirectory()
		if hash != nil {
			table.hash = hash
		}
		want := make(map[string]parley.Incarnation)
		most := 0
		for n := range parley.Incarnation(4000) {
			name := strings.Repeat(fmt.Sprint(rng.IntN(600)), 1+rng.IntN(2))
			a := table.get(name)
			if (a != nil) != (want[name] != 0) || a != nil && (a.name != name || a.incarnation != want[name] || a.shown != strings.Repeat(name, 1+int(want[name])%2)) {
				t.Fatalf("%s: %+v, want %d", name, a, want[name])
			}
			if a != nil {
				table.remove(a)
				delete(want, name)
				continue
			}
			table.add(name, strings.Repeat(name, 1+int(n+1)%2), user{incarnation: n + 1})
			want[name] = n + 1
			most = max(most, len(want))
		}
		if n := len(table.rooms); n > most/roomAccounts+1 {
			t.Errorf("%d rooms for %d users", n, most)
		}
	}
}

// TestPositions: few or many, they are those that were put there.
func TestPositions(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 22))
	a := &account{}
	var want []uint64
	for pos := range uint64(20_000) {
		if rng.IntN(4) > 0 || pos/200%2 == 0 {
			a.mail.push(pos)
			want = append(want, pos)
		}
		if rng.IntN(3) == 0 || pos/200%2 == 1 {
			n := rng.IntN(min(len(want), 4) + 1)
			if rng.IntN(500) == 0 {
				n = len(want)
			}
			a.mail.drop(n)
			want = want[n:]
		}
		if pos%7 == 0 && !slices.Equal(positionsOf(a), want) {
			t.Fatalf("%v, want %v", positionsOf(a), want)
		}
		if m := a.mail.many; m != nil && cap(m.buf) > 64+16*len(want) {
			t.Fatalf("room for %d positions, there are %d", cap(m.buf), len(want))
		}
	}
}
