package fsm

import "github.com/parley-chat/parley"

// EventKind says what an [Event] is about.
type EventKind uint8

// The kinds of events.
const (
	EventMail  EventKind = 1 // Message was put into the mailbox
	EventGone  EventKind = 2 // the user was deleted
	EventReset EventKind = 3 // the whole state was replaced: look again
)

// Event tells what an applied command did to a mailbox. Its texts are parts of the
// entry: copy what is kept, lest it keep all of the entry in memory.
type Event struct {
	Kind        EventKind
	Key         string // the user's folded name, as Fold returns it
	Incarnation parley.Incarnation
	Message     parley.Message // EventMail
}
