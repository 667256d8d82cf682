package fsm

import (
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley"
)

// generation is what changed between two checkpoints.
type generation struct {
	number   uint64
	begun    time.Time
	from     uint64     // position of the first command whose message could be in it
	mail     arrivals   // messages that came, and are unread
	read     []uint64   // positions of messages from before that are not unread any more
	changes  [][]change // of users' records, in rooms of roomChanges; at most one for each account
	changed  int        // how many
	names    []nameChange
	sorted   nameIndex // names, sorted, as far as somebody has asked
	sessions map[parley.SessionID]*session
	members  map[string]parley.Member // all members, if any changed
	secrets  map[string]string        // records of the accounts bucket that changed, "" for those that are gone
	bytes    int64                    // of memory besides the mail, roughly
	logged   int64                    // bytes of entries

	// Set when the generation is cut off.
	raftMeta
	counts
	policyMeta
	limits Limits
	stored bool // guarded by the owner's lock, like the state
}

// change is a user's record as it is to be stored.
type change struct {
	name, shown string
	gone        bool // the user was deleted
	user
}

const roomChanges = 256

// Roughly what things cost in memory besides their texts.
const (
	costChange  = 128
	costRead    = 8
	costName    = 48
	costSession = 160
	costReply   = 16
)

func newGeneration(number uint64) *generation {
	return &generation{number: number, begun: time.Now(), sessions: make(map[parley.SessionID]*session), secrets: make(map[string]string)}
}

// memory is what the generation takes in memory, in bytes, roughly.
func (g *generation) memory() int64 { return g.bytes + g.mail.bytes }

// appends reports whether storing the generation is mainly to append mail: that
// costs no more for being done often, while a page is written for nearly every
// record that changed, and for many a message that goes.
func (g *generation) appends() bool {
	const page = 4 << 10
	return int64(page*(g.changed+len(g.read))) <= g.mail.bytes
}

// change notes that an account's record, as it is now, must be stored.
func (g *generation) change(t *directory, a *account) *change {
	if a.generation != g.number {
		a.generation = g.number
		n := len(g.changes)
		if n == 0 || len(g.changes[n-1]) == roomChanges {
			g.changes = append(g.changes, make([]change, 0, roomChanges))
			n++
		}
		last := &g.changes[n-1]
		a.place = uint32((n-1)*roomChanges + len(*last))
		name, shown := t.names(a)
		*last = append(*last, change{name: name, shown: shown})
		g.changed++
		g.bytes += costChange
	}
	c := &g.changes[a.place/roomChanges][a.place%roomChanges]
	c.user = a.user
	return c
}

// byName lists the changes in the order of names, the last one of each.
func (g *generation) byName() []*change {
	var all []*change
	for _, some := range g.changes {
		for i := range some {
			all = append(all, &some[i])
		}
	}
	slices.Reverse(all) // the last one of a name first
	slices.SortStableFunc(all, func(a, b *change) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(all, func(a, b *change) bool { return a.name == b.name })
}

// rename notes that a user came or went. The strings are the generation's own.
func (g *generation) rename(c nameChange) {
	c.place = uint32(len(g.names))
	g.names = append(g.names, c)
	g.bytes += costName
}
