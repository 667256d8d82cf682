package check

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/parley-chat/parley"
)

// Judgement is what is to be said about a History.
type Judgement struct {
	Users    int       // whose histories were judged
	Parts    int       // into which their histories were cut, see split
	Largest  int       // operations in the largest part
	Findings []Finding // one for each part that is not linearizable, or not decided in time
}

// Finding is a part of one user's history that is not linearizable, or of which
// that could not be decided.
type Finding struct {
	User      string
	Undecided bool
	Ops       []string // the operations, in the order of their invocations

	model porcupine.Model
	info  porcupine.LinearizationInfo
}

func (f Finding) String() string {
	what := "not linearizable"
	if f.Undecided {
		what = "not decided in time"
	}
	return fmt.Sprintf("history of %s, %s:\n\t%s", f.User, what, strings.Join(f.Ops, "\n\t"))
}

// Draw writes the operations, and how far an order of them was found, as a page
// for a browser.
func (f Finding) Draw(w io.Writer) error { return porcupine.Visualize(f.model, f.info, w) }

// Check judges the history user by user; a list counts for each of them. Each part
// may take as long as limit, and as long again when it is split smaller; one that
// is not decided then is a finding, too.
func (h *History) Check(limit time.Duration) Judgement {
	h.mu.Lock()
	defer h.mu.Unlock()
	var j Judgement
	for _, key := range h.keys() {
		j.Users++
		for _, part := range split(h.of(key)) {
			j.Parts++
			j.Largest = max(j.Largest, len(part.ops))
			if f, ok := judge(key, part, limit); !ok {
				j.Findings = append(j.Findings, f)
			}
		}
	}
	return j
}

func judge(key string, part span, limit time.Duration) (f Finding, ok bool) {
	model := modelOf(key, part.from)
	ops := make([]porcupine.Operation, len(part.ops))
	for i, op := range part.ops {
		ops[i] = porcupine.Operation{ClientId: op.lane, Input: op, Call: op.call, Return: op.ret}
	}
	verdict := porcupine.CheckOperationsTimeout(model, ops, limit)
	fits, decided := verdict == porcupine.Ok, verdict != porcupine.Unknown
	if !decided {
		fits, decided = frontier(key, part, limit)
	}
	if fits {
		return f, true
	}
	f = Finding{User: key, Undecided: !decided, model: model}
	_, f.info = porcupine.CheckOperationsVerbose(model, ops, limit)
	f.Ops = append(f.Ops, "at the beginning: "+part.from.String())
	for _, op := range part.ops {
		f.Ops = append(f.Ops, op.String())
	}
	return f, false
}

// modelOf is the sequential specification of one user.
func modelOf(key string, from mailbox) porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{from} },
		Step: func(state, input, _ any) []any {
			var next []any
			for _, m := range state.(mailbox).step(key, input.(*Op)) {
				next = append(next, m)
			}
			return next
		},
		Equal:             func(a, b any) bool { return a.(mailbox).equal(b.(mailbox)) },
		DescribeOperation: func(input, _ any) string { return input.(*Op).String() },
		DescribeState:     func(state any) string { return state.(mailbox).String() },
	}
	return m.ToModel()
}

// String is the operation with its answer.
func (op *Op) String() string {
	s := fmt.Sprintf("[%d–%d] lane %d: %T%+v", op.call, op.ret, op.lane, op.input, op.input)
	s = strings.ReplaceAll(s, "parley.", "")
	switch op.state {
	case opAnswered:
		return s + " → " + answer(op.out)
	case opMaybe:
		return s + " → given up"
	}
	return strings.Replace(s, fmt.Sprint(never), "", 1) + " → unknown"
}

func answer(r parley.Result) string {
	s := r.Code.String()
	switch {
	case r.Incarnation != 0:
		s += fmt.Sprintf(", incarnation %d", r.Incarnation)
	case r.Message != 0:
		s += fmt.Sprintf(", message %d", r.Message)
	case r.Cursor.Incarnation != 0:
		s += fmt.Sprintf(", at %v, %d unread", r.Cursor, r.Unread)
		for _, m := range r.Messages {
			s += fmt.Sprintf(", %d %q", m.ID, m.Body)
		}
	case r.Names != nil:
		s += fmt.Sprintf(", %q", r.Names)
	}
	return s
}
