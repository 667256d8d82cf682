package fsm

import "hash/maphash"

// account is a user and where its unread mail is. It has no pointers: see
// directory, which knows its names.
type account struct {
	user
	few        [3]uint64 // positions of the messages after the cursor, up to last
	many       uint32    // number of the queue of all of them, plus 1, once they are more; else 0
	n          uint8     // so many are in few
	key, shown uint8     // bytes of the folded and of the shown name; no shown ones if both are the same
	texts      uint32    // where they are in the room, one behind the other
	number     uint32
	place      uint32 // in the generation below
	generation uint64 // number of the last one that has a change of the record
}

// directory is all users. There may be millions, and the garbage collector
// follows every pointer again and again; so they lie in rooms, refer to each
// other and to what they need by numbers, and are found by an index of numbers.
type directory struct {
	rooms  []*room
	made   uint32           // accounts in all rooms
	free   []uint32         // numbers of those that are not used
	index  [256]table       // by the highest byte of the hash: a table that grows holds nobody up for long
	queues []*queue[uint64] // of mailboxes with many messages
	unused []uint32         // numbers of queues
	hash   func(name string) uint64
}

const roomAccounts = 256

// room is accounts and their names. Pointers come first: behind the last one the
// garbage collector does not look.
type room struct {
	texts    []byte
	gone     int // bytes of them that nobody has any more
	accounts [roomAccounts]account
}

func newDirectory() *directory {
	seed := maphash.MakeSeed()
	return &directory{hash: func(name string) uint64 { return maphash.String(seed, name) }}
}

func (t *directory) at(number uint32) *account {
	return &t.rooms[number/roomAccounts].accounts[number%roomAccounts]
}

// get finds a user by its folded name; nil if there is none. The account stays
// where it is until it is removed.
func (t *directory) get(name string) *account {
	in, slot := t.find(name)
	if slot < 0 {
		return nil
	}
	return t.at(in.number(slot))
}

// find returns where the index has a user; a negative slot if there is none.
func (t *directory) find(name string) (in *table, slot int) {
	sum := t.hash(name)
	in = &t.index[sum>>56]
	if in.used == 0 {
		return in, -1
	}
	for i := in.home(uint32(sum)); in.slots[i] != 0; i = in.next(i) {
		if in.sum(i) != uint32(sum) {
			continue
		}
		number := in.number(i)
		room := t.rooms[number/roomAccounts]
		if a := &room.accounts[number%roomAccounts]; string(room.texts[a.texts:][:a.key]) == name {
			return in, i
		}
	}
	return in, -1
}

// names returns copies of the folded and the shown name.
func (t *directory) names(a *account) (name, shown string) {
	both := string(t.rooms[a.number/roomAccounts].texts[a.texts:][:int(a.key)+int(a.shown)])
	if name = both[:a.key]; a.shown == 0 {
		return name, name
	}
	return name, both[a.key:]
}

// add adds a user that is not there yet. The strings, at most maxName bytes each,
// are copied.
func (t *directory) add(name, shown string, u user) *account {
	number := t.vacancy()
	room := t.rooms[number/roomAccounts]
	a := &room.accounts[number%roomAccounts]
	*a = account{user: u, number: number, texts: uint32(len(room.texts)), key: uint8(len(name))}
	room.texts = append(room.texts, name...)
	if shown != name {
		a.shown = uint8(len(shown))
		room.texts = append(room.texts, shown...)
	}
	sum := t.hash(name)
	t.index[sum>>56].add(uint32(sum), number)
	return a
}

// vacancy returns the number of an account that can be used.
func (t *directory) vacancy() uint32 {
	if n := len(t.free); n > 0 {
		number := t.free[n-1]
		t.free = t.free[:n-1]
		return number
	}
	if t.made%roomAccounts == 0 {
		t.rooms = append(t.rooms, new(room))
	}
	t.made++
	return t.made - 1
}

// remove forgets a user, whose mail has been dropped.
func (t *directory) remove(a *account) {
	name, _ := t.names(a)
	in, slot := t.find(name)
	in.remove(slot)
	t.free = append(t.free, a.number)
	t.rooms[a.number/roomAccounts].clear(a)
}

// clear makes a place for another account. Texts move together when half of them
// are nobody's.
func (r *room) clear(a *account) {
	r.gone += int(a.key) + int(a.shown)
	*a = account{}
	if 2*r.gone <= len(r.texts) {
		return
	}
	texts := make([]byte, 0, len(r.texts)-r.gone)
	for i := range r.accounts {
		a := &r.accounts[i]
		from := a.texts
		a.texts = uint32(len(texts))
		texts = append(texts, r.texts[from:][:int(a.key)+int(a.shown)]...)
	}
	r.texts, r.gone = texts, 0
}

// waiting is how many positions an account has: its unread messages.
func (t *directory) waiting(a *account) int {
	if a.many != 0 {
		return t.queues[a.many-1].len()
	}
	return int(a.n)
}

// position returns the i-th position from the front.
func (t *directory) position(a *account, i int) uint64 {
	if a.many != 0 {
		return *t.queues[a.many-1].at(i)
	}
	return a.few[i]
}

// push adds the position of a message that has come.
func (t *directory) push(a *account, pos uint64) {
	switch {
	case a.many != 0:
		t.queues[a.many-1].push(pos)
	case int(a.n) < len(a.few):
		a.few[a.n] = pos
		a.n++
	default:
		q := &queue[uint64]{buf: append(append(make([]uint64, 0, 2*len(a.few)+2), a.few[:]...), pos)}
		if n := len(t.unused); n > 0 {
			a.many = t.unused[n-1] + 1
			t.unused = t.unused[:n-1]
			t.queues[a.many-1] = q
		} else {
			t.queues = append(t.queues, q)
			a.many = uint32(len(t.queues))
		}
	}
}

// drop removes n positions from the front. Memory of which little is used is
// given back.
func (t *directory) drop(a *account, n int) {
	if a.many == 0 {
		a.n = uint8(copy(a.few[:], a.few[n:a.n]))
		return
	}
	q := t.queues[a.many-1]
	q.drop(n)
	switch left := q.len(); {
	case left <= len(a.few):
		a.n = uint8(left)
		for i := range left {
			a.few[i] = *q.at(i)
		}
		t.queues[a.many-1] = nil
		t.unused = append(t.unused, a.many-1)
		a.many = 0
	case left < cap(q.buf)/8:
		*q = q.clone()
	}
}

// table is a part of the index: a hash table with open addressing and linear
// probing. A slot has half of the hash and, below it, the account's number plus 1;
// an empty one is 0. The number of slots is a power of 2.
type table struct {
	slots []uint64
	used  int
}

func (t *table) home(sum uint32) int      { return int(sum) & (len(t.slots) - 1) }
func (t *table) next(slot int) int        { return (slot + 1) & (len(t.slots) - 1) }
func (t *table) sum(slot int) uint32      { return uint32(t.slots[slot] >> 32) }
func (t *table) number(slot int) uint32   { return uint32(t.slots[slot]) - 1 }
func (t *table) ahead(from, slot int) int { return (slot - from) & (len(t.slots) - 1) }

func (t *table) add(sum, number uint32) {
	if 4*(t.used+1) > 3*len(t.slots) {
		old := t.slots
		t.slots = make([]uint64, max(8, 2*len(old)))
		for _, s := range old {
			if s != 0 {
				t.put(s)
			}
		}
	}
	t.put(uint64(sum)<<32 | uint64(number+1))
	t.used++
}

func (t *table) put(s uint64) {
	i := t.home(uint32(s >> 32))
	for t.slots[i] != 0 {
		i = t.next(i)
	}
	t.slots[i] = s
}

// remove empties a slot, and lets those behind it move up that would not be found
// otherwise.
func (t *table) remove(slot int) {
	for i := t.next(slot); t.slots[i] != 0; i = t.next(i) {
		if t.ahead(t.home(t.sum(i)), i) >= t.ahead(slot, i) {
			t.slots[slot] = t.slots[i]
			slot = i
		}
	}
	t.slots[slot] = 0
	t.used--
}
