package parley

import (
	"errors"
	"fmt"
	"strconv"
)

// Code says how a command, query or connection fared. The numbers are part of
// the protocols: they are only ever added to.
//
// Codes below 100 are answers: deterministic, carried in [Result], cached for
// retries. Codes from 100 on are errors: no answer was given.
type Code uint16

// Answers.
const (
	CodeOK              Code = 0
	CodeNoSuchUser      Code = 1
	CodeNameTaken       Code = 2
	CodeBadName         Code = 3 // not 1–64 bytes of PRECIS UsernameCasePreserved without comma
	CodeBadPattern      Code = 4 // not RE2, or too long
	CodeBadText         Code = 5 // not valid UTF-8
	CodeBodyTooLarge    Code = 6
	CodeMailboxFull     Code = 7 // unread messages or bytes
	CodeTooManyUsers    Code = 8
	CodeTooManySessions Code = 9
	// CodeSessionExpired: the session is unknown. A command that was sent for the
	// first time did not take effect; of one sent again this cannot be known.
	CodeSessionExpired Code = 10
	// CodeForgotten: the sequence number is at or below what the client declared
	// answered; the reply is gone and the command does not take effect (again).
	CodeForgotten Code = 11
	// CodeUnauthenticated: nobody is logged in, or what was logged in with is not
	// valid any more, or the credentials are wrong. Log in (again). This one and the
	// next may come from the node that serves the client, before the log; then they
	// are not cached.
	CodeUnauthenticated  Code = 12
	CodePermissionDenied Code = 13 // not this user, or not with this token
	CodePasswordNeeded   Code = 14 // the cluster requires users to have one
	CodeBadPassword      Code = 15 // too short, too long, or not text
	CodeInviteNeeded     Code = 16 // the invitation code is missing, unknown, used up or expired
	CodeTooManyTokens    Code = 17
	CodeNoSuchToken      Code = 18 // or invitation
	CodeTooManyInvites   Code = 19
)

// Errors. All but CodeBadRequest, CodeUnsupported and CodeOutcomeUnknown are
// worth a retry under the same session and sequence number.
const (
	CodeNotLeader      Code = 100 // not applied; Error.Leader may say who leads
	CodeNoQuorum       Code = 101 // no leader, or the majority did not answer in time; may or may not take effect
	CodeOverloaded     Code = 102 // a queue is full; not applied
	CodeShuttingDown   Code = 103 // not applied
	CodeInterrupted    Code = 104 // leadership or connection lost on the way; may or may not take effect
	CodeOutOfOrder     Code = 105 // the predecessor in the session is missing; not applied
	CodeBadRequest     Code = 106 // the request itself is malformed or beyond a limit
	CodeUnsupported    Code = 107 // unknown kind or version
	CodeOutcomeUnknown Code = 108 // the session expired while the outcome was open: nobody can say
)

var codeNames = map[Code]string{
	CodeOK: "ok", CodeNoSuchUser: "no such user", CodeNameTaken: "name taken", CodeBadName: "bad name",
	CodeBadPattern: "bad pattern", CodeBadText: "bad text", CodeBodyTooLarge: "body too large",
	CodeMailboxFull: "mailbox full", CodeTooManyUsers: "too many users", CodeTooManySessions: "too many sessions",
	CodeSessionExpired: "session expired", CodeForgotten: "reply forgotten",
	CodeUnauthenticated: "unauthenticated", CodePermissionDenied: "permission denied",
	CodePasswordNeeded: "password needed", CodeBadPassword: "bad password", CodeInviteNeeded: "invitation needed",
	CodeTooManyTokens: "too many tokens", CodeNoSuchToken: "no such token", CodeTooManyInvites: "too many invitations",
	CodeNotLeader: "not leader", CodeNoQuorum: "no quorum", CodeOverloaded: "overloaded",
	CodeShuttingDown: "shutting down", CodeInterrupted: "interrupted", CodeOutOfOrder: "out of order",
	CodeBadRequest: "bad request", CodeUnsupported: "unsupported", CodeOutcomeUnknown: "outcome unknown",
}

// String gives the code's name, such as "no such user".
func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return "code " + strconv.Itoa(int(c))
}

// IsAnswer reports whether the code belongs into a [Result] rather than an [Error].
func (c Code) IsAnswer() bool { return c < 100 }

// Retryable reports whether a command that ended with this error may be started
// again under the same session and sequence number.
func (c Code) Retryable() bool {
	switch c {
	case CodeNotLeader, CodeNoQuorum, CodeOverloaded, CodeShuttingDown, CodeInterrupted, CodeOutOfOrder:
		return true
	}
	return false
}

// NotApplied reports whether the error says for certain that the command did
// not take effect and, unless it is started again, never will.
func (c Code) NotApplied() bool {
	switch c {
	case CodeNotLeader, CodeOverloaded, CodeShuttingDown, CodeOutOfOrder, CodeBadRequest, CodeUnsupported:
		return true
	}
	return false
}

// SessionOver reports whether an answer says that the command's session cannot be
// used: it has ended, or somebody else has declared its numbers answered, whose
// session it is too. A command that was sent for the first time did not take effect.
func (c Code) SessionOver() bool { return c == CodeSessionExpired || c == CodeForgotten }

// Error is a non-answer. Compare with [errors.Is] against an *Error of the same
// Code, or use [CodeOf].
type Error struct {
	Code   Code
	Detail string // what happened and what to do, for people
	Leader string // CodeNotLeader: the leader's node name, "" if unknown
}

// Errorf makes an Error.
func Errorf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Detail: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Code.String()
	}
	return e.Code.String() + ": " + e.Detail
}

// Is makes errors.Is compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// CodeOf returns the code of an error: that of the *Error in its chain, or
// CodeInterrupted for any other error, since then nothing is known. CodeOf(nil)
// is CodeOK.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInterrupted
}

// Err returns nil for CodeOK and otherwise the refusal as an error, for callers
// that have no use for telling the two apart.
func (r Result) Err() error {
	if r.Code == CodeOK {
		return nil
	}
	return &Error{Code: r.Code, Detail: r.Detail}
}

// Refusal is the inverse of [Result.Err]. The error's code must be an answer's.
func Refusal(err error) Result {
	r := Result{Code: CodeOf(err)}
	var e *Error
	if errors.As(err, &e) {
		r.Detail = e.Detail
	}
	return r
}
