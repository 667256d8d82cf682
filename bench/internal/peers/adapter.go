package peers

import (
	"context"
	"errors"
	"iter"

	"github.com/parley-chat/parley"
)

// adapter is the part of a peer's client that is the same for all: there are no
// users and no sessions, nothing to be made before a message can be sent, and the
// load's acknowledging of mail that nobody reads is not asked of peers.
type adapter struct {
	// send sends a message to a mailbox and calls done once, when it has been
	// acknowledged or has failed. It may block when it is alone on its connection.
	send func(ctx context.Context, to, body string, done func(error))
}

func (a adapter) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	switch cmd := r.Command.(type) {
	case parley.Send:
		a.send(ctx, cmd.To, cmd.Body, func(err error) {
			if err != nil { // not to be tried again: it may have taken effect
				err = parley.Errorf(parley.CodeOutcomeUnknown, "%v", err)
			}
			done(parley.Result{}, err)
		})
	case parley.OpenSession:
		done(parley.Result{Session: 1}, nil)
	default:
		done(parley.Result{}, nil)
	}
}

func (adapter) Get(context.Context, parley.Query) (parley.Result, error) {
	return parley.Result{}, parley.Errorf(parley.CodeUnsupported, "this is a peer")
}

func (adapter) Watch(context.Context, string, parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) { yield(parley.Message{}, errNotAReader) }
}

// Trouble implements bench.Client: dialling has succeeded, or there is no client.
func (adapter) Trouble() error { return nil }

func (a adapter) Receive(ctx context.Context, user string, from parley.Cursor) iter.Seq2[parley.Message, error] {
	return a.Watch(ctx, user, from)
}

var errNotAReader = errors.New("this client does not read")
