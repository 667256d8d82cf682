package node

import (
	"context"
	"iter"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
)

// watch subscribes first, then finds a point in the log that covers everything
// acknowledged so far, then shows what is in the mailbox, then what comes: so
// there is neither a gap nor a repetition. It runs on the caller's goroutine, and
// while it waits, as most watches do all the time, little is on the stack.
func (n *Node) watch(ctx context.Context, user string, after parley.Cursor, forward bool) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		w, err := n.joinHub(ctx, user, forward)
		if w != nil {
			defer n.hub.unsubscribe(w)
		}
		if err != nil {
			fail(yield, err)
			return
		}
		v := &view{n: n, user: user, at: after, yield: yield}
		for missed := true; ; {
			if missed && !v.mailbox(ctx) {
				return
			}
			var events []fsm.Event
			if events, missed, err = w.next(ctx, n); err != nil {
				fail(yield, err)
				return
			}
			for i := 0; i < len(events) && !missed; i++ {
				var more bool
				if more, missed = v.event(&events[i]); !more {
					return
				}
			}
		}
	}
}

// joinHub subscribes to a user's mail and finds a point in the log behind all that
// has been acknowledged. Who gets a watcher unsubscribes it, also after an error.
//
//go:noinline
func (n *Node) joinHub(ctx context.Context, user string, forward bool) (*watcher, error) {
	key, _, err := fsm.Fold(user)
	if err != nil {
		return nil, noSuchUser(user)
	}
	w, err := n.hub.subscribe(key)
	if err != nil {
		return nil, err
	}
	return w, n.readPoint(ctx, forward)
}

// fail ends a watch.
//
//go:noinline
func fail(yield func(parley.Message, error) bool, err error) { yield(parley.Message{}, err) }

// view is how far a watch has come.
type view struct {
	n     *Node
	user  string
	at    parley.Cursor // the last message shown, or where to begin
	yield func(parley.Message, error) bool
}

// mailbox shows what is unread beyond v.at. It returns false at the watch's end.
func (v *view) mailbox(ctx context.Context) bool {
	for {
		r := v.n.fsm.Inbox(parley.Inbox{User: v.user, After: v.at})
		if !r.Code.IsAnswer() {
			v.yield(parley.Message{}, r.Err())
			return false
		}
		if r.Code != parley.CodeOK || v.at.Incarnation != 0 && v.at.Incarnation != r.Cursor.Incarnation {
			v.yield(parley.Message{}, noSuchUser(v.user))
			return false
		}
		v.at = parley.Cursor{Incarnation: r.Cursor.Incarnation, ID: max(v.at.ID, r.Cursor.ID)}
		for _, m := range r.Messages {
			if !v.show(m) {
				return false
			}
		}
		if !r.More || len(r.Messages) == 0 {
			return true
		}
		if err := ctx.Err(); err != nil {
			v.yield(parley.Message{}, err)
			return false
		}
	}
}

// event shows a new message. more is false at the watch's end; missed says that
// the mailbox has to be read again.
func (v *view) event(e *fsm.Event) (more, missed bool) {
	switch {
	case e.Incarnation != v.at.Incarnation:
		return true, false // of a user who bore the name before
	case e.Kind == fsm.EventGone:
		v.yield(parley.Message{}, noSuchUser(v.user))
		return false, false
	case e.Message.ID <= v.at.ID:
		return true, false // shown from the mailbox
	case e.Message.ID > v.at.ID+1:
		return true, true
	}
	return v.show(e.Message), false
}

func (v *view) show(m parley.Message) bool {
	v.at = m.Cursor
	return v.yield(m, nil)
}
