package fsm

import (
	"hash/maphash"
	"strings"
)

// account is a user and where its unread mail is.
type account struct {
	name string // folded
	user
	mail       positions // of the messages after the cursor, up to last
	generation uint64    // number of the last one that has a change of the record,
	place      uint32    // and where in it
	next       uint32    // the next account whose name has the same hash, plus 1; 0: none
}

// directory is all users. They lie in rooms and refer to each other by numbers,
// because there may be millions: the garbage collector follows every pointer
// again and again, and a million of them in a map of strings and pointers took
// half of the processor time of a busy node.
type directory struct {
	rooms [][]account
	free  []uint32          // numbers of accounts that are not used
	first map[uint64]uint32 // number of the first account by the hash of its name
	hash  func(name string) uint64
}

const roomAccounts = 256

func newDirectory() *directory {
	seed := maphash.MakeSeed()
	return &directory{
		first: make(map[uint64]uint32),
		hash:  func(name string) uint64 { return maphash.String(seed, name) },
	}
}

func (t *directory) at(number uint32) *account {
	return &t.rooms[number/roomAccounts][number%roomAccounts]
}

// get finds a user by its folded name; nil if there is none. The account stays
// where it is until it is removed.
func (t *directory) get(name string) *account {
	number, ok := t.first[t.hash(name)]
	for ok {
		a := t.at(number)
		if a.name == name {
			return a
		}
		number, ok = a.next-1, a.next > 0
	}
	return nil
}

// add adds a user that is not there yet. The strings are copied.
func (t *directory) add(name, shown string, u user) *account {
	if u.shown = strings.Clone(name); shown != name {
		u.shown = strings.Clone(shown)
	}
	number := t.unused()
	a := t.at(number)
	*a = account{name: u.shown, user: u}
	if shown != name {
		a.name = strings.Clone(name)
	}
	sum := t.hash(name)
	if n, ok := t.first[sum]; ok {
		a.next = n + 1
	}
	t.first[sum] = number
	return a
}

// unused returns the number of an account that can be used.
func (t *directory) unused() uint32 {
	if n := len(t.free); n > 0 {
		number := t.free[n-1]
		t.free = t.free[:n-1]
		return number
	}
	n := len(t.rooms)
	if n == 0 || len(t.rooms[n-1]) == roomAccounts {
		t.rooms = append(t.rooms, make([]account, 0, roomAccounts))
		n++
	}
	room := &t.rooms[n-1]
	*room = append(*room, account{})
	return uint32((n-1)*roomAccounts + len(*room) - 1)
}

// remove forgets a user.
func (t *directory) remove(a *account) {
	sum := t.hash(a.name)
	number, next := t.first[sum], a.next
	if t.at(number) == a {
		if delete(t.first, sum); next > 0 {
			t.first[sum] = next - 1
		}
	} else {
		before := t.at(number)
		for t.at(before.next-1) != a {
			before = t.at(before.next - 1)
		}
		number, before.next = before.next-1, next
	}
	*a = account{}
	t.free = append(t.free, number)
}

// positions is a queue of positions, of which few need no memory of their own.
type positions struct {
	few  [3]uint64
	n    uint32         // so many are in few
	many *queue[uint64] // all of them, once they are more
}

func (p *positions) len() int {
	if p.many != nil {
		return p.many.len()
	}
	return int(p.n)
}

// at returns the i-th position from the front.
func (p *positions) at(i int) uint64 {
	if p.many != nil {
		return *p.many.at(i)
	}
	return p.few[i]
}

func (p *positions) push(pos uint64) {
	switch {
	case p.many != nil:
		p.many.push(pos)
	case int(p.n) < len(p.few):
		p.few[p.n] = pos
		p.n++
	default:
		p.many = &queue[uint64]{buf: append(append(make([]uint64, 0, 2*len(p.few)+2), p.few[:]...), pos)}
	}
}

// drop removes n positions from the front. Memory of which little is used is
// given back.
func (p *positions) drop(n int) {
	if p.many == nil {
		p.n = uint32(copy(p.few[:], p.few[n:p.n]))
		return
	}
	p.many.drop(n)
	switch left := p.many.len(); {
	case left <= len(p.few):
		p.n = 0
		for i := range left {
			p.few[p.n] = *p.many.at(i)
			p.n++
		}
		p.many = nil
	case left < cap(p.many.buf)/8:
		*p.many = p.many.clone()
	}
}
