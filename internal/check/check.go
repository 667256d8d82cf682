// Package check judges what a chat cluster did. It has four checkers, which are
// told what happened, from any number of goroutines, and know nothing about how
// it came about:
//
//   - [Log] is told what was sent, what was acknowledged and what every reader
//     saw, and says what was lost, duplicated, reordered or made up.
//   - [History] is told of every operation and its answer, and says whether they
//     are linearizable.
//   - [Replicas] is told what the members say about themselves, and says where
//     they contradict each other.
//   - [Leaks] is told what processes hold, and says which hold ever more.
package check

import (
	"fmt"
	"sync"

	"github.com/parley-chat/parley"
)

// A Stream is the messages of one sender to one mailbox. They are numbered from
// 1 without gaps in the order in which they were sent, and arrive in that order.
type Stream struct {
	From string // no spaces
	To   string // the mailbox, no spaces
}

// A Verdict counts what went in, what came out, and what went wrong.
type Verdict struct {
	Sent         int `json:"sent"`         // handed to the cluster
	Acknowledged int `json:"acknowledged"` // of those, acknowledged as stored
	Delivered    int `json:"delivered"`    // different messages that at least one reader saw

	Lost       int `json:"lost"`       // acknowledged, seen by no reader of the mailbox
	Duplicated int `json:"duplicated"` // times that a reader saw a message again
	// Reordered is the number of deliveries out of order: after a later message
	// of the same stream, at a position not after the one before, at another
	// position than another reader saw it at, at the position of another message,
	// or with an earlier time than the message before.
	Reordered int `json:"reordered"`
	// Phantom is the number of deliveries of what was never sent, not to this
	// mailbox, to a former bearer of its name, or was refused.
	Phantom int `json:"phantom"`
}

// OK reports whether nothing went wrong.
func (v Verdict) OK() bool { return v.Lost+v.Duplicated+v.Reordered+v.Phantom == 0 }

func (v Verdict) String() string {
	return fmt.Sprintf("sent %d, acknowledged %d, delivered %d, lost %d, duplicated %d, reordered %d, phantom %d",
		v.Sent, v.Acknowledged, v.Delivered, v.Lost, v.Duplicated, v.Reordered, v.Phantom)
}

// Log records what happened. The zero Log is not usable; see [NewLog]. It is
// safe for concurrent use. It keeps about twenty bytes per message and one more
// per reader of it.
type Log struct {
	mu       sync.Mutex
	streams  map[Stream]*stream
	boxes    map[string]*box
	clock    uint64  // counts what the boxes compare
	counts   Verdict // all but Lost, kept as events come
	missing  int     // acknowledged, not seen by any reader so far
	problems []string
}

// stream is what is known about the messages of one Stream; index 0 is number 1.
type stream struct {
	id    uint32 // from 1
	state []state
	at    []parley.Cursor // position at which a reader saw it first
	acked []uint64        // when it was acknowledged; only if the mailbox may have several incarnations
}

// state of one message: how the sending went, and whether anybody saw it.
type state uint8

const (
	acked   state = 1 << iota // acknowledged as stored
	refused                   // answered with a refusal: must not be delivered
	seen                      // delivered to some reader
	gone                      // its mailbox was deleted: it may be delivered or not
)

// maxProblems is the number of problems described in words; all are counted.
const maxProblems = 20

// NewLog returns an empty Log.
func NewLog() *Log { return &Log{streams: make(map[Stream]*stream), boxes: make(map[string]*box)} }

// Send records that the next message of a stream is about to be sent and
// returns its number. As long as nothing else is reported about it, its outcome
// is unknown: it may be delivered once or not at all.
//
// Calls for one stream must be made in the order in which the messages are
// sent, each before the message is handed over.
func (l *Log) Send(s Stream) (n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.streams[s]
	if st == nil {
		st = &stream{id: uint32(len(l.streams) + 1)}
		l.streams[s] = st
	}
	st.state = append(st.state, 0)
	st.at = append(st.at, parley.Cursor{})
	l.counts.Sent++
	return uint64(len(st.state))
}

// Acknowledge records that a message was acknowledged: it must be delivered.
func (l *Log) Acknowledge(s Stream, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.known(s, n)
	if st == nil || st.state[n-1]&acked != 0 {
		return
	}
	st.state[n-1] |= acked
	l.counts.Acknowledged++
	l.boxes[s.To].acknowledged(l, st, n)
	if st.state[n-1]&(seen|gone) == 0 {
		l.missing++
	}
}

// Refuse records that a message was answered with a refusal, or for certain
// never reached the cluster: it must not be delivered.
func (l *Log) Refuse(s Stream, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.known(s, n)
	if st == nil || st.state[n-1]&refused != 0 {
		return
	}
	st.state[n-1] |= refused
	if st.state[n-1]&seen != 0 {
		l.counts.Phantom++
		l.describe("phantom: %s was refused and delivered", Body(s, n))
	}
}

// Missing returns the number of messages acknowledged but not yet delivered to
// any reader of their mailbox. When it is 0 at the end, nothing is lost.
func (l *Log) Missing() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.missing
}

// Verdict returns the counts so far. Lost is [Log.Missing]: while messages are
// still on their way they count as lost.
func (l *Log) Verdict() Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.counts
	v.Lost = l.missing
	return v
}

// Problems describes the first things that went wrong, in words. Messages that
// are missing at the time of the call are at the end.
func (l *Log) Problems() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	problems := append([]string(nil), l.problems...)
	for s, st := range l.streams {
		for i, state := range st.state {
			if len(problems) >= 2*maxProblems {
				return problems
			}
			if state&acked != 0 && state&(seen|gone) == 0 {
				problems = append(problems, fmt.Sprintf("lost: %s was acknowledged and not delivered", Body(s, uint64(i+1))))
			}
		}
	}
	return problems
}

// known returns the stream if it has a message n. mu is held.
func (l *Log) known(s Stream, n uint64) *stream {
	st := l.streams[s]
	if st == nil || n == 0 || n > uint64(len(st.state)) {
		return nil
	}
	return st
}

// describe keeps the first problems. mu is held.
func (l *Log) describe(format string, args ...any) {
	if len(l.problems) < maxProblems {
		l.problems = append(l.problems, fmt.Sprintf(format, args...))
	}
}
