package check

import "github.com/parley-chat/parley"

// box is what is known about one mailbox: which message is at which position,
// and when the users of its name were created.
type box struct {
	places  map[parley.Incarnation][]place // by message id - 1
	created map[parley.Incarnation]uint64  // when the command was about to be given; nil: there is only one
}

// place is the message at a position: the stream's id and the number in it. The
// zero place is not taken.
type place struct{ stream, number uint32 }

// maxID bounds the memory for the positions of one mailbox. Beyond it, positions
// are not compared.
const maxID = 1 << 28

// box returns a mailbox, which is made when there is none. mu is held.
func (l *Log) box(mailbox string) *box {
	b := l.boxes[mailbox]
	if b == nil {
		b = &box{places: make(map[parley.Incarnation][]place)}
		l.boxes[mailbox] = b
	}
	return b
}

// claim reports whether a position is that of the message, and of no other.
func (b *box) claim(at parley.Cursor, stream uint32, n uint64) bool {
	if at.ID == 0 || at.ID > maxID {
		return at.ID != 0
	}
	places := b.places[at.Incarnation]
	for uint64(len(places)) < uint64(at.ID) {
		places = append(places, place{})
	}
	b.places[at.Incarnation] = places
	p := &places[at.ID-1]
	if *p == (place{}) {
		*p = place{stream, uint32(n)}
	}
	return *p == place{stream, uint32(n)}
}

// Creating records that the user of a mailbox is about to be created, for one of
// several times, and returns what to report the answer to. Mail that had been
// acknowledged before must not be in the new mailbox.
func (l *Log) Creating(mailbox string) (created func(parley.Incarnation)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.box(mailbox)
	if b.created == nil {
		b.created = make(map[parley.Incarnation]uint64)
	}
	l.clock++
	began := l.clock
	return func(inc parley.Incarnation) {
		l.mu.Lock()
		defer l.mu.Unlock()
		b.created[inc] = began
	}
}

// Deleting records that the user of a mailbox is about to be deleted, and
// returns what to call when that is done or given up. All mail sent by then may
// be gone, unread.
func (l *Log) Deleting(mailbox string) (deleted func()) {
	l.lose(mailbox)
	return func() { l.lose(mailbox) }
}

// lose says that nothing that was sent to a mailbox so far need be delivered.
func (l *Log) lose(mailbox string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, st := range l.streams {
		if s.To != mailbox {
			continue
		}
		for i, state := range st.state {
			if state&(acked|seen|gone) == acked {
				l.missing--
			}
			st.state[i] |= gone
		}
	}
}

// acknowledged notes when a message was. A nil box is one of a user that is
// created once.
func (b *box) acknowledged(l *Log, st *stream, n uint64) {
	if b == nil || b.created == nil {
		return
	}
	l.clock++
	for uint64(len(st.acked)) < n {
		st.acked = append(st.acked, 0)
	}
	st.acked[n-1] = l.clock
}

// former reports whether a message had been acknowledged before the user was
// created in whose mailbox it is shown.
func (b *box) former(st *stream, n uint64, inc parley.Incarnation) bool {
	if b == nil || b.created[inc] == 0 || n > uint64(len(st.acked)) || st.acked[n-1] == 0 {
		return false
	}
	return st.acked[n-1] < b.created[inc]
}
