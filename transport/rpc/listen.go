package rpc

import (
	"context"
	"strings"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/api/helloworld"
)

// box is a mailbox as far as its mail was handed out here: what has been sent
// with one response does not come again with the next although it may not be
// acknowledged yet. Who has its token may use the rest.
type box struct {
	token chan struct{}
	sent  parley.MessageID // handed out up to here
}

// maxBoxes bounds legacy.boxes.
const maxBoxes = 4096

// Listen returns unread messages and acknowledges them once the response has been
// handed to the transport. Clients know nothing of acknowledgements: one that is
// gone by then loses them, one whose response could not be sent does not.
func (l *legacy) Listen(ctx context.Context, in *helloworld.User) (*helloworld.Response, error) {
	user := in.GetName()
	if user == "" {
		return &helloworld.Response{}, nil
	}
	r, err := l.g.get(ctx, parley.Inbox{User: user, Limit: -1})
	if err != nil && r.Code == parley.CodeOK {
		return nil, err
	}
	if err != nil || r.Unread == 0 { // a user that is not there has no mail
		return &helloworld.Response{}, nil
	}
	b := l.box(r.Cursor.Incarnation)
	select {
	case b.token <- struct{}{}:
	case <-ctx.Done():
		return nil, failure(ctx, ctx.Err())
	}
	text, last, err := l.unread(ctx, user, parley.Cursor{Incarnation: r.Cursor.Incarnation, ID: b.sent})
	if err != nil {
		<-b.token
		return nil, err
	}
	callOf(ctx).after = func(ctx context.Context, responded bool) {
		defer func() { <-b.token }()
		if responded {
			b.sent = last.ID
			l.acknowledge(ctx, user, last)
		}
	}
	return &helloworld.Response{Message: text}, nil
}

// unread returns the text of as many messages behind a position as there is room
// for, one at least, and the position of the last one.
func (l *legacy) unread(ctx context.Context, user string, after parley.Cursor) (string, parley.Cursor, error) {
	const before, behind = "Message: ", "\n\n"
	var text strings.Builder
	for {
		r, err := l.g.get(ctx, parley.Inbox{User: user, After: after})
		if err != nil && r.Code == parley.CodeOK {
			return "", after, err
		}
		for _, m := range r.Messages {
			if text.Len() > 0 && text.Len()+len(before)+len(m.Body)+len(behind) > l.room() {
				return text.String(), after, nil
			}
			text.WriteString(before)
			text.WriteString(strings.ToValidUTF8(m.Body, "\uFFFD"))
			text.WriteString(behind)
			after = m.Cursor
		}
		if !r.More || len(r.Messages) == 0 { // also if the user has gone meanwhile
			return text.String(), after, nil
		}
	}
}

// acknowledge removes what has been sent from the mailbox, or, if that cannot be
// done in time, leaves it to the next call.
func (l *legacy) acknowledge(ctx context.Context, user string, upTo parley.Cursor) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.g.cfg.CommandTimeout)
	defer cancel()
	// No such user (any more): just as well.
	if _, err := l.g.repeat(ctx, parley.Request{Command: parley.Ack{User: user, UpTo: upTo}}); err != nil {
		l.g.log.Debug("acknowledgement failed", "user", user, "up_to", upTo.ID, "error", err)
	}
}

// box returns the box of a user. Boxes are forgotten when there are too many,
// and then mail that could not be acknowledged may come again.
func (l *legacy) box(id parley.Incarnation) *box {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.boxes[id]; b != nil {
		return b
	}
	if len(l.boxes) >= maxBoxes {
		for id, b := range l.boxes {
			if len(b.token) == 0 { // nobody uses it
				delete(l.boxes, id)
				break
			}
		}
	}
	b := &box{token: make(chan struct{}, 1)}
	l.boxes[id] = b
	return b
}
