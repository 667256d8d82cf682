package node

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
)

// hub tells watchers what happens to their mailboxes. The state machine's
// goroutine publishes and never waits: a watcher that does not keep up with its
// bounded queue loses the queue and reads the mailbox instead.
type hub struct {
	meters   *meters
	most     int          // watchers of one mailbox
	watching atomic.Int64 // watchers; publish costs nothing when there are none

	mu     sync.RWMutex
	boxes  map[string]map[*watcher]struct{} // by the user's key
	closed bool                             // the node stops
}

// The bounds of a watcher's queue.
const (
	watchEvents = 256
	watchBytes  = 256 << 10
)

// watcher is one watch's queue.
type watcher struct {
	key    string
	wake   chan struct{} // one token when there is something to take; nil: there is resume
	resume func()        // takes what there is

	mu      sync.Mutex
	events  []fsm.Event
	bytes   int
	missed  bool // everything is in the mailbox: nothing was read yet, or the queue was too short
	over    bool // the node stops
	resting bool // resume is called, on a goroutine of its own, when there is something to take
}

func newHub(m *meters, most int) *hub {
	return &hub{meters: m, most: most, boxes: make(map[string]map[*watcher]struct{})}
}

// subscribe makes a watcher, which has to read the mailbox first. Whatever is
// published from now on reaches it, and whatever was published before is in the
// state already. Each message costs the state machine something for each watcher, so
// there is a limit. A watcher with resume can rest, one without it can await.
func (h *hub) subscribe(key string, resume func()) (*watcher, error) {
	w := &watcher{key: key, resume: resume, missed: true}
	if resume == nil {
		w.wake = make(chan struct{}, 1)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errStopping
	}
	if len(h.boxes[key]) >= h.most {
		h.meters.crowded()
		return nil, parley.Errorf(parley.CodeOverloaded, "%d watch the mailbox on this node already, which is the limit", h.most)
	}
	if h.boxes[key] == nil {
		h.boxes[key] = make(map[*watcher]struct{})
	}
	h.boxes[key][w] = struct{}{}
	h.watching.Add(1)
	return w, nil
}

func (h *hub) unsubscribe(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.boxes[w.key], w)
	if len(h.boxes[w.key]) == 0 {
		delete(h.boxes, w.key)
	}
	h.watching.Add(-1)
}

// close ends all watches, and those to come.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, box := range h.boxes {
		for w := range box {
			w.end()
		}
	}
}

// publish is called by the state machine after its state has changed.
func (h *hub) publish(events []fsm.Event) {
	if h.watching.Load() == 0 {
		return
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for i := range events {
		e := &events[i]
		if e.Kind == fsm.EventReset {
			for _, box := range h.boxes {
				for w := range box {
					w.miss()
				}
			}
			continue
		}
		for w := range h.boxes[e.Key] {
			if !w.offer(e) {
				h.meters.overflow()
			}
		}
	}
}

// offer queues an event, or reports that the queue has just overflowed.
func (w *watcher) offer(e *fsm.Event) bool {
	size := len(e.Message.Body) + len(e.Message.From)
	w.mu.Lock()
	defer w.mu.Unlock()
	full := len(w.events) >= watchEvents || w.bytes+size > watchBytes
	switch {
	case w.missed:
		full = false // known already
	case full:
		w.events, w.bytes, w.missed = nil, 0, true
	default:
		kept := *e
		kept.Key = w.key // else the texts would keep the whole log entry in memory
		m := &kept.Message
		texts := m.From + m.Body
		m.From, m.Body = texts[:len(m.From)], texts[len(m.From):]
		w.events = append(w.events, kept)
		w.bytes += size
	}
	w.alert()
	return !full
}

// miss makes the watcher read the mailbox.
func (w *watcher) miss() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events, w.bytes, w.missed = nil, 0, true
	w.alert()
}

// end makes the watch end.
func (w *watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.alert()
}

// alert tells whoever waits that there is something. mu is held.
func (w *watcher) alert() {
	signal(w.wake)
	if w.resting {
		w.resting = false
		go w.resume()
	}
}

// take takes what there is. missed says that there was more, which is in the mailbox
// by now.
func (w *watcher) take() (events []fsm.Event, missed, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, missed = w.events, w.missed
	w.events, w.bytes, w.missed = nil, 0, false
	return events, missed, w.over
}

// await waits for something to take, or for the end of ctx.
func (w *watcher) await(ctx context.Context) {
	select {
	case <-w.wake:
	case <-ctx.Done():
	}
}

// rest lets resume be called when there is something to take, or reports false if
// there is already, or ctx has ended. Whoever rests calls rouse when ctx ends.
func (w *watcher) rest(ctx context.Context) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resting = len(w.events) == 0 && !w.missed && !w.over && ctx.Err() == nil
	return w.resting
}

// rouse calls resume if the watcher rests.
func (w *watcher) rouse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alert()
}

// noSuchUser ends a watch.
func noSuchUser(user string) *parley.Error {
	return parley.Errorf(parley.CodeNoSuchUser, "no user is named %.80q", user)
}
