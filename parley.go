// Package parley is the vocabulary of Parley, a chat cluster that keeps every
// acknowledged message while any minority of its machines dies.
//
// It says what can be asked of the system (commands and queries), what comes
// back (results, messages, errors) and who can be asked ([Service]). It depends
// on the standard library only; every other package depends on it.
//
// # Words
//
// A user is a named account with an [Incarnation]: a user that is deleted and
// created again is somebody else and never sees its predecessor's mail. A
// user's mailbox numbers its messages 1, 2, 3…; a [Cursor] is a position in it.
// Messages up to the mailbox's own cursor have been acknowledged by the reader
// and are gone; the rest is unread. A session ([SessionID]) is what makes a
// retried command recognisable, so that it takes effect once.
//
// # Answers and errors
//
// A replicated command gets a [Result]. A result may be a refusal ("name
// taken"): refusals are answers like any other, the same on every node, cached
// with the session and repeated when the command is repeated. When no answer
// can be had (no leader, queue full, shutting down) there is no Result but an
// [Error], and the command may be sent again under the same session and
// sequence number.
package parley

import (
	"context"
	"iter"
	"strconv"
	"time"
)

// Service is a chat cluster as its users see it. A cluster node, the network
// client and an in-memory fake implement it; gateways, the command line and the
// forwarding between nodes use nothing else.
//
// Implementations are safe for concurrent use.
type Service interface {
	// Start hands over a command and returns without waiting for its outcome.
	// Commands that one goroutine starts one after the other are committed in
	// that order, or refused.
	//
	// done is called exactly once, with an answer or an error, on a goroutine of
	// the implementation or before Start returns. It must not block.
	//
	// A command with a session takes effect at most once, however often it is
	// started. A command without one (Session 0) takes effect each time; only
	// Ack, which says the same thing each time, is harmless to repeat.
	//
	// An implementation that sends a command again on its own account answers
	// [CodeOutcomeUnknown] instead of a code that says [Code.SessionOver] if an earlier
	// try of its own may have taken effect: the caller takes the latter for "did not".
	//
	// When ctx ends the implementation may give up and call done with an error;
	// the command may still take effect afterwards.
	Start(ctx context.Context, r Request, done func(Result, error))

	// Get answers a query. Except for [Status] the answer is linearizable: it
	// reflects every command acknowledged before Get was called.
	Get(ctx context.Context, q Query) (Result, error)

	// Watch yields the messages of user's mailbox after the given position,
	// oldest first: first those already there, then new ones as they come. The
	// zero Cursor means all unread mail. It acknowledges nothing.
	//
	// The sequence ends with an error: ctx's, [CodeNoSuchUser] when the user does
	// not exist (any more) or when after belongs to a former incarnation, or one
	// of the retryable codes; after those, Watch can be called again with the
	// cursor of the last message seen. A consumer that falls far behind while
	// another reader acknowledges the same mail sees only what is still unread.
	Watch(ctx context.Context, user string, after Cursor) iter.Seq2[Message, error]
}

// Subscriber is a [Service] whose watches need no goroutine while there is nothing
// to show: of the memory of an idle connection, a goroutine's stack is most.
type Subscriber interface {
	Service
	// Subscribe is Watch with calls: it returns at once, and show is called with
	// what Watch yields, by one goroutine after the other, never by two at a time.
	// It may wait. The call with the error that ends the watch is the last one, and
	// always comes, unless a call before it has returned false.
	Subscribe(ctx context.Context, user string, after Cursor, show func(Message, error) bool)
}

// Subscribe watches a mailbox as [Subscriber] says, with a goroutine for each watch
// if s is none.
func Subscribe(ctx context.Context, s Service, user string, after Cursor, show func(Message, error) bool) {
	if s, ok := s.(Subscriber); ok {
		s.Subscribe(ctx, user, after, show)
		return
	}
	go func() {
		for m, err := range s.Watch(ctx, user, after) {
			if !show(m, err) || err != nil {
				return
			}
		}
		show(Message{}, Errorf(CodeInterrupted, "the watch ended without a reason"))
	}()
}

// Do starts a command and waits for its outcome or for the end of ctx. It does
// not retry; see [Session].
func Do(ctx context.Context, s Service, r Request) (Result, error) {
	type outcome struct {
		result Result
		err    error
	}
	ch := make(chan outcome, 1)
	s.Start(ctx, r, func(result Result, err error) { ch <- outcome{result, err} })
	select {
	case o := <-ch:
		return o.result, o.err
	case <-ctx.Done():
		select {
		case o := <-ch: // both were ready: the outcome is worth more
			return o.result, o.err
		default:
			return Result{}, context.Cause(ctx)
		}
	}
}

// SessionID names a session: the position in the replicated log of the command
// that opened it. 0 is no session.
type SessionID uint64

// Incarnation tells users of the same name apart: the position in the log at
// which this one was created. 0 is none.
type Incarnation uint64

// MessageID is a message's number in its mailbox, counted from 1.
type MessageID uint64

// Cursor is a position in the mailbox of one incarnation of a user: everything
// up to and including ID. The zero Cursor is the beginning of the unread mail
// of whoever bears the name now.
type Cursor struct {
	Incarnation Incarnation
	ID          MessageID
}

// Message is one message in a mailbox.
type Message struct {
	Cursor           // its position; the numbers are consecutive
	From   string    // the sender's name as it was given, "" if it gave none
	Body   string    // UTF-8 text
	Time   time.Time // when the leader accepted it; never decreases within a mailbox
}

// Request is a command with what makes it recognisable.
//
// Within a session, commands are numbered from 1 without gaps and take effect
// in that order: a command whose predecessor is missing is turned away with
// [CodeOutOfOrder] until the predecessor has been applied or given up.
type Request struct {
	Session SessionID // 0: not deduplicated
	Seq     uint64    // number within the session; 0 if and only if Session is 0
	// Answered says that all numbers up to it have been answered or given up:
	// their cached replies may be forgotten, and they must not take effect any
	// more. Answered < Seq.
	Answered uint64
	Command  Command
	// As is in whose name, nil: anybody's. A gateway's service sets it. A session
	// belongs to the user that opened it, and is unknown to everybody else.
	As *Actor
}

// Command is something that changes the replicated state: one of the types in
// this package. Each touches the state of one key (a user or a session) only.
type Command interface {
	command()
	// Key is the user or session that the command touches.
	Key() string
}

// CreateUser adds a user. Result: [CodeOK] with Incarnation, [CodeNameTaken],
// [CodeBadName], [CodeTooManyUsers], [CodePasswordNeeded], [CodeBadPassword],
// [CodeInviteNeeded].
type CreateUser struct {
	Name     string
	Password Secret // "": the user has none
	Invite   Secret // an invitation code, where Registration is by invitation
}

// DeleteUser removes a user and its mail. Watches of the mailbox end. Result:
// [CodeOK] or [CodeNoSuchUser].
type DeleteUser struct{ Name string }

// Send puts a message into a mailbox. Result: [CodeOK] with Message,
// [CodeNoSuchUser], [CodeMailboxFull], [CodeBodyTooLarge], [CodeBadText].
type Send struct {
	From string // shown to the reader; may be ""
	To   string
	Body string // valid UTF-8, 64 KiB by default
}

// Ack removes messages up to and including UpTo.ID from the unread queue. A
// cursor of a former incarnation, or one behind the mailbox's cursor, changes
// nothing and is answered [CodeOK]; so is one ahead of the last message, which
// acknowledges all there is. Incarnation 0 means whoever bears the name now.
// Result: [CodeOK], [CodeNoSuchUser].
type Ack struct {
	User string
	UpTo Cursor
}

// OpenSession opens a session. Result: [CodeOK] with Session,
// [CodeTooManySessions]. It is sent without a session; a retry may leave behind
// an unused session, which expires.
type OpenSession struct{}

// CloseSession ends a session and forgets its replies. Result: [CodeOK],
// [CodeSessionExpired]. It is sent without Session and Seq in the Request.
type CloseSession struct{ Session SessionID }

// Query is a question that changes nothing: one of the types in this package.
type Query interface{ query() }

// Users asks for the names, as created, that match a pattern, in the order of
// their case-folded forms. Result: [CodeOK] with Names and More, or
// [CodeBadPattern].
type Users struct {
	Pattern string // RE2, matched anywhere in the name; "" matches all
	After   string // only names that sort after this one; "" from the start
	Limit   int    // most names in one result; 0 or anything larger than the service's own limit: that limit
}

// Inbox asks for unread messages. Result: [CodeOK] with Messages, Cursor (the
// mailbox's own, with the incarnation) and Unread, or [CodeNoSuchUser], also when
// After belongs to a former incarnation.
type Inbox struct {
	User  string
	After Cursor // only messages after it; zero: all unread
	Limit int    // most messages in one result; 0: as many as the service's own limits allow; negative: none
}

// Status asks a node for its view of the cluster. It is answered without a
// majority too, and may then be out of date. Result: [CodeOK] with Members; Detail
// has a line for each thing that operators should see to.
type Status struct{}

// Result is the answer to a command or query. Which fields are set is said at
// the command or query.
type Result struct {
	Code   Code   // CodeOK or why it was refused
	Detail string // for people; with a refusal, names the value and the limit

	Session     SessionID   // OpenSession
	Incarnation Incarnation // CreateUser
	Message     MessageID   // Send

	Names    []string  // Users
	More     bool      // Users, Inbox: ask again after the last one
	Messages []Message // Inbox
	Cursor   Cursor    // Inbox
	Unread   uint64    // Inbox: messages not yet acknowledged, in all
	Members  []Member  // Status

	Policy  *Policy  // GetPolicy
	Tokens  []Token  // Tokens
	Invites []Invite // Invites
}

// Role is what a member does at the moment.
type Role string

// The roles. A member that cannot be reached keeps RoleUnknown.
const (
	RoleLeader    Role = "leader"
	RoleFollower  Role = "follower"
	RoleCandidate Role = "candidate"
	RoleLearner   Role = "learner" // receives the log, has no vote yet
	RoleUnknown   Role = "unknown"
)

// Member is a node of the cluster as another node sees it.
type Member struct {
	ID        string `json:"id"`        // node name, as in its certificate
	Server    string `json:"server"`    // Raft server id (UUID), kept with the node's data
	Role      Role   `json:"role"`      // as the member itself says
	Client    string `json:"client"`    // host:port for clients
	Peer      string `json:"peer"`      // host:port for members
	Term      uint64 `json:"term"`      // Raft term
	Applied   uint64 `json:"applied"`   // log index up to which its state is current
	Reachable bool   `json:"reachable"` // answered just now
}

func (CreateUser) command()   {}
func (DeleteUser) command()   {}
func (Send) command()         {}
func (Ack) command()          {}
func (OpenSession) command()  {}
func (CloseSession) command() {}

// Key returns the name as given, not case-folded.
func (c CreateUser) Key() string { return c.Name }

// Key returns the name as given, not case-folded.
func (c DeleteUser) Key() string { return c.Name }

// Key returns the recipient as given, not case-folded.
func (c Send) Key() string { return c.To }

// Key returns the reader as given, not case-folded.
func (c Ack) Key() string { return c.User }

// Key returns "": the session does not exist yet.
func (OpenSession) Key() string { return "" }

// Key returns the session's number.
func (c CloseSession) Key() string { return strconv.FormatUint(uint64(c.Session), 10) }

func (Users) query()  {}
func (Inbox) query()  {}
func (Status) query() {}
