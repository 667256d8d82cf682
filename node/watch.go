package node

import (
	"context"
	"iter"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
)

// watch is a watch of a mailbox under way. It subscribes first, then finds a point in
// the log that covers everything acknowledged so far, then shows what is in the
// mailbox, then what comes: so there is neither a gap nor a repetition.
type watch struct {
	n       *Node
	ctx     context.Context
	user    string
	at      parley.Cursor // the last message shown, or where to begin
	show    func(parley.Message, error) bool
	forward bool // the point in the log may be asked of the leader

	*watcher
	unhook func() bool // from the end of ctx; of a subscription
}

// each is the watch on the caller's goroutine, which waits while there is nothing.
func (v *watch) each(show func(parley.Message, error) bool) {
	v.show = show
	defer v.leave()
	for more := v.join(nil); more && v.advance(); {
		v.await(v.ctx)
	}
}

// subscribe is the watch on goroutines of its own: one at a time, and none while
// there is nothing to show.
func (v *watch) subscribe() {
	if !v.join(v.run) {
		v.leave()
		return
	}
	v.unhook = context.AfterFunc(v.ctx, v.rouse)
	v.run()
}

// run shows what there is to show.
func (v *watch) run() {
	for v.advance() {
		if v.rest(v.ctx) {
			return
		}
	}
	v.unhook()
	v.leave()
}

// join subscribes to the user's mail and finds a point in the log behind all that
// has been acknowledged. It returns false at the watch's end, like all that follow.
func (v *watch) join(resume func()) (more bool) {
	key, _, err := fsm.Fold(v.user)
	if err != nil {
		return v.fail(noSuchUser(v.user))
	}
	if v.watcher, err = v.n.hub.subscribe(key, resume); err != nil {
		return v.fail(err)
	}
	if err := v.n.readPoint(v.ctx, v.forward); err != nil {
		return v.fail(err)
	}
	return true
}

// leave ends the subscription, if there is one.
func (v *watch) leave() {
	if v.watcher != nil {
		v.n.hub.unsubscribe(v.watcher)
	}
}

// fail ends the watch.
func (v *watch) fail(err error) (more bool) {
	v.show(parley.Message{}, err)
	return false
}

// advance shows everything that there is to show.
func (v *watch) advance() (more bool) {
	for {
		events, missed, over := v.take()
		switch {
		case over:
			return v.fail(errStopping)
		case v.ctx.Err() != nil:
			return v.fail(v.ctx.Err())
		case missed:
			if !v.mailbox() {
				return false
			}
		case len(events) == 0:
			return true
		default:
			if !v.events(events) {
				return false
			}
		}
	}
}

// mailbox shows what is unread beyond v.at.
func (v *watch) mailbox() (more bool) {
	for {
		r := v.n.fsm.Inbox(parley.Inbox{User: v.user, After: v.at})
		if !r.Code.IsAnswer() {
			return v.fail(r.Err())
		}
		if r.Code != parley.CodeOK || v.at.Incarnation != 0 && v.at.Incarnation != r.Cursor.Incarnation {
			return v.fail(noSuchUser(v.user))
		}
		v.at = parley.Cursor{Incarnation: r.Cursor.Incarnation, ID: max(v.at.ID, r.Cursor.ID)}
		for _, m := range r.Messages {
			if !v.message(m) {
				return false
			}
		}
		if !r.More || len(r.Messages) == 0 {
			return true
		}
		if err := v.ctx.Err(); err != nil {
			return v.fail(err)
		}
	}
}

// events shows new messages.
func (v *watch) events(events []fsm.Event) (more bool) {
	for i := range events {
		switch e := &events[i]; {
		case e.Incarnation != v.at.Incarnation:
			// Of a user who bore the name before.
		case e.Kind == fsm.EventGone:
			return v.fail(noSuchUser(v.user))
		case e.Message.ID <= v.at.ID:
			// Shown from the mailbox.
		case e.Message.ID > v.at.ID+1:
			return v.mailbox() // which has the rest too
		case !v.message(e.Message):
			return false
		}
	}
	return true
}

func (v *watch) message(m parley.Message) (more bool) {
	v.at = m.Cursor
	return v.show(m, nil)
}

// watch returns a watch that has not begun.
func (n *Node) watch(ctx context.Context, user string, after parley.Cursor, forward bool) *watch {
	return &watch{n: n, ctx: ctx, user: user, at: after, forward: forward}
}

// Watch implements [parley.Service].
func (n *Node) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) { n.watch(ctx, user, after, true).each(yield) }
}

// Subscribe implements [parley.Subscriber].
func (n *Node) Subscribe(ctx context.Context, user string, after parley.Cursor, show func(parley.Message, error) bool) {
	v := n.watch(ctx, user, after, true)
	v.show = show
	go v.subscribe()
}

func (l local) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) { l.n.watch(ctx, user, after, false).each(yield) }
}
