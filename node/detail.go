package node

import (
	"fmt"

	"github.com/parley-chat/parley"
)

// explained adds to a refusal what it refused, where the state machine, which
// stores its answers, leaves that to be said.
func explained(r parley.Result, q parley.Request) parley.Result {
	if r.Detail != "" {
		return r
	}
	switch r.Code {
	case parley.CodeNoSuchUser:
		r.Detail = fmt.Sprintf("no user is named %.80q", q.Command.Key())
	case parley.CodeNameTaken:
		r.Detail = fmt.Sprintf("there is a user %.80q, perhaps in other case", q.Command.Key())
	case parley.CodeSessionExpired:
		id := q.Session
		if c, ok := q.Command.(parley.CloseSession); ok {
			id = c.Session
		}
		r.Detail = fmt.Sprintf("session %d is not open", id)
	case parley.CodeForgotten:
		r.Detail = fmt.Sprintf("number %d of session %d was declared answered", q.Seq, q.Session)
	}
	return r
}

// malformed says what is wrong with a request, or nil.
func malformed(r parley.Request) *parley.Error {
	switch {
	case r.Command == nil:
		return parley.Errorf(parley.CodeBadRequest, "there is no command")
	case (r.Session == 0) != (r.Seq == 0):
		return parley.Errorf(parley.CodeBadRequest, "number %d in session %d", r.Seq, r.Session)
	case r.Answered != 0 && r.Answered >= r.Seq:
		return parley.Errorf(parley.CodeBadRequest, "number %d declares %d answered", r.Seq, r.Answered)
	}
	return nil
}
