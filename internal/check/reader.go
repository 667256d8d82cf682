package check

import (
	"strconv"
	"strings"
	"time"

	"github.com/parley-chat/parley"
)

// A Reader records what one reader of a mailbox sees. A mailbox may have several
// readers; each is judged on its own, and all must see the same order. A reader
// that goes on where a former one stopped is the same Reader.
//
// The methods of different Readers may be called concurrently; those of one
// Reader are called in the order in which it saw the messages.
type Reader struct {
	log     *Log
	name    string
	mailbox string

	// Guarded by log.mu.
	last    parley.Cursor              // position of the latest message seen
	time    time.Time                  // and when it was accepted
	streams map[Stream]*readerProgress // one per sender
}

// readerProgress is what a reader saw of one stream.
type readerProgress struct {
	seen []bool // by number-1
	high uint64 // highest number seen
}

// Reader returns a new reader of a mailbox. The name is for descriptions only.
func (l *Log) Reader(name, mailbox string) *Reader {
	return &Reader{log: l, name: name, mailbox: mailbox, streams: make(map[Stream]*readerProgress)}
}

// Deliver records that the reader was shown a message. Its body must be one that
// [Body] made; anything else is a phantom.
func (r *Reader) Deliver(m parley.Message) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	l := r.log

	s, n, ok := ParseBody(m.Body)
	st := l.known(s, n)
	if !ok || st == nil || s.To != r.mailbox {
		l.counts.Phantom++
		l.describe("phantom: reader %s of %s was shown %q at %v, which was not sent there", r.name, r.mailbox, m.Body, m.Cursor)
		return
	}
	if l.boxes[s.To].former(st, n, m.Incarnation) {
		l.counts.Phantom++
		l.describe("phantom: reader %s of %s was shown %q at %v, but it was sent to a former bearer of the name", r.name, r.mailbox, m.Body, m.Cursor)
	}
	seenBefore := st.state[n-1]&seen != 0
	if !seenBefore {
		r.first(st, s, n, m.Cursor)
	}
	p := r.progress(s, n)
	if p.seen[n-1] {
		l.counts.Duplicated++
		l.describe("duplicated: reader %s of %s was shown %q again, at %v", r.name, r.mailbox, m.Body, m.Cursor)
		return
	}
	p.seen[n-1] = true

	switch {
	case n < p.high:
		l.counts.Reordered++
		l.describe("reordered: reader %s of %s was shown %q after number %d of the same sender", r.name, r.mailbox, m.Body, p.high)
	case !before(r.last, m.Cursor):
		l.counts.Reordered++
		l.describe("reordered: reader %s of %s was shown %q at %v after %v", r.name, r.mailbox, m.Body, m.Cursor, r.last)
	case seenBefore && st.at[n-1] != m.Cursor:
		l.counts.Reordered++
		l.describe("reordered: reader %s of %s was shown %q at %v, another reader at %v", r.name, r.mailbox, m.Body, m.Cursor, st.at[n-1])
	case !l.box(s.To).claim(m.Cursor, st.id, n):
		l.counts.Reordered++
		l.describe("reordered: reader %s of %s was shown %q at %v, where another message was shown", r.name, r.mailbox, m.Body, m.Cursor)
	case m.Incarnation == r.last.Incarnation && m.Time.Before(r.time):
		l.counts.Reordered++
		l.describe("reordered: reader %s of %s was shown %q of %v after one of %v", r.name, r.mailbox, m.Body, m.Time, r.time)
	}
	p.high = max(p.high, n)
	if before(r.last, m.Cursor) {
		r.last, r.time = m.Cursor, m.Time
	}
}

// first notes that somebody saw the message for the first time. log.mu is held.
func (r *Reader) first(st *stream, s Stream, n uint64, at parley.Cursor) {
	l := r.log
	st.state[n-1] |= seen
	st.at[n-1] = at
	l.counts.Delivered++
	if st.state[n-1]&(acked|gone) == acked {
		l.missing--
	}
	if st.state[n-1]&refused != 0 {
		l.counts.Phantom++
		l.describe("phantom: %s was refused and delivered", Body(s, n))
	}
}

// progress returns what r saw of a stream, with room for number n. log.mu is held.
func (r *Reader) progress(s Stream, n uint64) *readerProgress {
	p := r.streams[s]
	if p == nil {
		p = &readerProgress{}
		r.streams[s] = p
	}
	for uint64(len(p.seen)) < n {
		p.seen = append(p.seen, false)
	}
	return p
}

// before reports whether a is an earlier position than b. Incarnations of a user
// are numbered in the order in which they were created.
func before(a, b parley.Cursor) bool {
	if a.Incarnation != b.Incarnation {
		return a.Incarnation < b.Incarnation
	}
	return a.ID < b.ID
}

// Body is the text by which message n of a stream is recognised.
func Body(s Stream, n uint64) string {
	return s.From + " " + s.To + " " + strconv.FormatUint(n, 10)
}

// ParseBody is the inverse of [Body]. Text may follow after one more space.
func ParseBody(body string) (s Stream, n uint64, ok bool) {
	f := strings.SplitN(body, " ", 4)
	if len(f) < 3 {
		return Stream{}, 0, false
	}
	n, err := strconv.ParseUint(f[2], 10, 64)
	return Stream{From: f[0], To: f[1]}, n, err == nil
}
