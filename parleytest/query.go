package parleytest

import (
	"context"
	"iter"
	"regexp"
	"slices"

	"github.com/parley-chat/parley"
)

// How much fits into one result.
const (
	pageNames    = 1000
	pageMessages = 256
	pageBytes    = 64 << 10
	maxPattern   = 1024
)

// Get implements [parley.Service].
func (f *Fake) Get(ctx context.Context, q parley.Query) (parley.Result, error) {
	f.mu.Lock()
	judge := f.onGet
	f.mu.Unlock()
	if judge != nil {
		if err := judge(q); err != nil {
			return parley.Result{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return parley.Result{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed() {
		return parley.Result{}, shutDown()
	}
	switch q := q.(type) {
	case parley.Users:
		return f.list(q), nil
	case parley.Inbox:
		return f.inbox(q), nil
	case parley.Status:
		return parley.Result{Members: slices.Clone(f.members)}, nil
	}
	return f.getAccount(q)
}

func (f *Fake) list(q parley.Users) parley.Result {
	if len(q.Pattern) > maxPattern {
		return refuse(parley.CodeBadPattern, "the pattern has %d bytes, the limit is %d", len(q.Pattern), maxPattern)
	}
	re, err := regexp.Compile(q.Pattern)
	if err != nil {
		return refuse(parley.CodeBadPattern, "%v", err)
	}
	after := q.After
	if key, _, err := fold(after); err == nil {
		after = key
	}
	keys := make([]string, 0, len(f.users))
	for key, m := range f.users {
		if key > after && re.MatchString(m.name) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	limit := pageNames
	if q.Limit > 0 {
		limit = min(limit, q.Limit)
	}
	var r parley.Result
	for i, key := range keys {
		if i == limit {
			r.More = true
			break
		}
		r.Names = append(r.Names, f.users[key].name)
	}
	return r
}

func (f *Fake) inbox(q parley.Inbox) parley.Result {
	_, m := f.find(q.User)
	if m == nil || q.After.Incarnation != 0 && q.After.Incarnation != m.born {
		return noSuchUser(q.User)
	}
	r := parley.Result{Cursor: parley.Cursor{Incarnation: m.born, ID: m.cursor}, Unread: uint64(len(m.unread))}
	limit := pageMessages
	switch {
	case q.Limit < 0:
		limit = 0
	case q.Limit > 0:
		limit = min(limit, q.Limit)
	}
	size := 0
	for _, msg := range m.after(q.After.ID) {
		size += len(msg.Body)
		if len(r.Messages) >= limit || size > pageBytes && len(r.Messages) > 0 {
			r.More = true
			break
		}
		r.Messages = append(r.Messages, msg)
	}
	return r
}

// after returns the unread messages behind id. They must be copied under mu.
func (m *mailbox) after(id parley.MessageID) []parley.Message {
	if id <= m.cursor {
		return m.unread
	}
	return m.unread[min(uint64(id-m.cursor), uint64(len(m.unread))):]
}

// following returns what a watch that has come as far as id yields next: the
// recent messages if it follows closely, otherwise what is unread.
func (m *mailbox) following(id parley.MessageID) []parley.Message {
	if len(m.recent) > 0 && id+1 >= m.recent[0].ID && id < m.sent {
		return m.recent[id+1-m.recent[0].ID:]
	}
	return m.after(id)
}

// Watch implements [parley.Service].
func (f *Fake) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		f.mu.Lock()
		judge := f.onWatch
		ended := f.ended
		f.watches++
		f.mu.Unlock()
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.watches--
		}()
		if judge != nil {
			if err := judge(user); err != nil {
				yield(parley.Message{}, err)
				return
			}
		}
		begun := false
		for {
			batch, changed, err := f.next(ctx, user, &after, &begun, ended)
			if err != nil {
				yield(parley.Message{}, err)
				return
			}
			for _, msg := range batch {
				after = msg.Cursor
				if !yield(msg, nil) {
					return
				}
			}
			if len(batch) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ended:
			case <-ctx.Done():
			}
		}
	}
}

// next returns the next few messages after a position, or the channel that
// tells when there may be some. The first call makes the position a definite one.
func (f *Fake) next(ctx context.Context, user string, after *parley.Cursor, begun *bool, ended <-chan struct{}) ([]parley.Message, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed() {
		return nil, nil, shutDown()
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	select {
	case <-ended:
		return nil, nil, f.endedBy
	default:
	}
	_, m := f.find(user)
	if m == nil || after.Incarnation != 0 && after.Incarnation != m.born {
		return nil, nil, parley.Errorf(parley.CodeNoSuchUser, "no user is named %.80q (any more)", user)
	}
	if !*begun { // with what is unread, whatever has been seen before
		*begun = true
		*after = parley.Cursor{Incarnation: m.born, ID: max(after.ID, m.cursor)}
	}
	batch := m.following(after.ID)
	return slices.Clone(batch[:min(len(batch), 64)]), m.changed, nil
}
