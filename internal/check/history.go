package check

import (
	"cmp"
	"slices"
	"sync"

	"github.com/parley-chat/parley"
)

// A History records what clients asked for, in what order, and what they were
// told, for [History.Check] to decide whether it is linearizable: whether there
// is one order of all operations, each between its invocation and its
// completion, in which every answer is right.
//
// It is safe for concurrent use. It keeps every operation and answer.
type History struct {
	mu    sync.Mutex
	clock int64 // counts invocations and completions
	ops   []*Op
}

// NewHistory returns an empty History.
func NewHistory() *History { return &History{} }

// Op is one operation in a History.
type Op struct {
	h     *History
	lane  int
	input any // a parley.Command or parley.Query
	out   parley.Result
	state opState
	call  int64
	ret   int64 // never, as long as it is not known
}

type opState uint8

const (
	opOpen     opState = iota // may take effect at any time after the call
	opAnswered                // took effect, and out is the answer
	opMaybe                   // took effect before ret, or never
	opNever                   // did not and will not take effect
)

const never = int64(1) << 62

// Invoke records that an operation is about to begin. Commands of one lane are
// started one after the other in one session: once a later one is answered, an
// earlier one that was given up cannot take effect any more.
func (h *History) Invoke(lane int, input any) *Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	op := &Op{h: h, lane: lane, input: input, call: h.clock, ret: never}
	h.ops = append(h.ops, op)
	return op
}

// Answer records the answer, which may be a refusal.
func (op *Op) Answer(r parley.Result) {
	op.h.mu.Lock()
	defer op.h.mu.Unlock()
	op.h.clock++
	op.out, op.state, op.ret = r, opAnswered, op.h.clock
	if _, ok := op.input.(parley.Command); !ok {
		return
	}
	for _, o := range op.h.ops {
		if _, ok := o.input.(parley.Command); ok && o.lane == op.lane && o.state == opOpen && o.call < op.call {
			o.state, o.ret = opMaybe, op.ret
		}
	}
}

// Fail records that there is no answer. The operation may take effect, now or
// later, unless the error says that it does not.
func (op *Op) Fail(err error) {
	op.h.mu.Lock()
	defer op.h.mu.Unlock()
	if _, ok := op.input.(parley.Command); !ok || parley.CodeOf(err).NotApplied() {
		op.state = opNever
	}
}

// Len is the number of operations recorded.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// keys are all users that appear in the history.
func (h *History) keys() []string {
	var keys []string
	for _, op := range h.ops {
		if key, ok := keyOf(op.input); ok && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// keyOf is the one user that an operation is about. A list is about all of them.
func keyOf(input any) (key string, ok bool) {
	switch in := input.(type) {
	case parley.Users:
		return "", false
	case parley.Inbox:
		return in.User, true
	case parley.Command:
		return in.Key(), true
	}
	return "", false
}

// of are the operations that one user is part of, by invocation.
func (h *History) of(key string) []*Op {
	var ops []*Op
	for _, op := range h.ops {
		k, ok := keyOf(op.input)
		_, list := op.input.(parley.Users)
		if (list || ok && k == key) && op.state != opNever && (op.state == opAnswered || !list) {
			ops = append(ops, op)
		}
	}
	slices.SortStableFunc(ops, func(a, b *Op) int { return cmp.Compare(a.call, b.call) })
	return ops
}

// span is a part of a user's history that can be judged by itself.
type span struct {
	from mailbox // state of the mailbox at its beginning
	ops  []*Op
}

// split cuts a user's history where the state is known: after an answer that
// shows the whole mailbox, given while nothing else was under way. What follows
// depends on nothing else that came before. The shorter the parts, the sooner
// they are decided.
func split(ops []*Op) []span {
	var spans []span
	now := span{}
	open := int64(0) // latest completion so far
	floor := parley.Incarnation(0)
	for i, op := range ops {
		alone := op.call > open && (i+1 == len(ops) || ops[i+1].call > op.ret)
		open = max(open, op.ret)
		floor = max(floor, op.out.Incarnation, op.out.Cursor.Incarnation)
		now.ops = append(now.ops, op)
		if m, whole := shownBy(op); whole && alone {
			m.floor = floor
			spans = append(spans, now)
			now = span{from: m}
		}
	}
	if len(now.ops) > 0 {
		spans = append(spans, now)
	}
	return spans
}

// shownBy is the mailbox as an answer shows it, if it shows all of it.
func shownBy(op *Op) (m mailbox, whole bool) {
	in, ok := op.input.(parley.Inbox)
	if !ok || op.state != opAnswered || in.After != (parley.Cursor{}) {
		return m, false
	}
	switch {
	case op.out.Code == parley.CodeNoSuchUser:
		return m, true
	case op.out.Code != parley.CodeOK || uint64(len(op.out.Messages)) != op.out.Unread:
		return m, false
	}
	m.exists, m.incarnation = true, op.out.Cursor.Incarnation
	m.cursor = op.out.Cursor.ID
	m.last = m.cursor + parley.MessageID(op.out.Unread)
	for _, msg := range op.out.Messages {
		m.mail = append(m.mail, msg.Body)
	}
	return m, true
}

// Lines are all operations in words, by invocation.
func (h *History) Lines() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for _, op := range h.ops {
		lines = append(lines, op.String())
	}
	return lines
}
