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
	most     int           // watchers of one mailbox
	watching atomic.Int64  // watchers; publish costs nothing when there are none
	closing  chan struct{} // closed when the node stops

	mu    sync.RWMutex
	boxes map[string]map[*watcher]struct{} // by the user's key
}

// The bounds of a watcher's queue.
const (
	watchEvents = 256
	watchBytes  = 256 << 10
)

// watcher is one watch's queue.
type watcher struct {
	key  string
	wake chan struct{} // one token when there is something to take

	mu     sync.Mutex
	events []fsm.Event
	bytes  int
	missed bool // the queue was too short: everything is in the mailbox
}

func newHub(m *meters, most int) *hub {
	return &hub{meters: m, most: most, closing: make(chan struct{}), boxes: make(map[string]map[*watcher]struct{})}
}

// subscribe makes a watcher. Whatever is published from now on reaches it, and
// whatever was published before is in the state already. Each message costs the
// state machine something for each watcher, so there is a limit.
func (h *hub) subscribe(key string) (*watcher, error) {
	w := &watcher{key: key, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
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

// close ends all watches.
func (h *hub) close() { close(h.closing) }

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
	full := len(w.events) >= watchEvents || w.bytes+size > watchBytes
	switch {
	case w.missed:
		full = false // known already
	case full:
		w.events, w.bytes, w.missed = nil, 0, true
	default:
		w.events = append(w.events, *e)
		w.bytes += size
		kept := &w.events[len(w.events)-1].Message
		texts := kept.From + kept.Body // else they would keep the whole log entry in memory
		kept.From, kept.Body = texts[:len(kept.From)], texts[len(kept.From):]
	}
	w.mu.Unlock()
	signal(w.wake)
	return !full
}

// miss makes the watcher read the mailbox.
func (w *watcher) miss() {
	w.mu.Lock()
	w.events, w.bytes, w.missed = nil, 0, true
	w.mu.Unlock()
	signal(w.wake)
}

// next waits for events. missed says that there were more, which are in the
// mailbox by now.
func (w *watcher) next(ctx context.Context, n *Node) (events []fsm.Event, missed bool, err error) {
	for {
		w.mu.Lock()
		events, missed = w.events, w.missed
		w.events, w.bytes, w.missed = nil, 0, false
		w.mu.Unlock()
		if len(events) > 0 || missed {
			return events, missed, nil
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-n.hub.closing:
			return nil, false, errStopping
		case <-n.done:
			return nil, false, errStopping
		}
	}
}

// noSuchUser ends a watch.
func noSuchUser(user string) *parley.Error {
	return parley.Errorf(parley.CodeNoSuchUser, "no user is named %.80q", user)
}
