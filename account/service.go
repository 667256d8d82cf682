package account

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
)

// service is the guarded service as one actor sees it.
type service struct {
	g     *Guard
	actor *parley.Actor // nil: anybody
	// Of a user:
	key     string // by which it is told from others
	token   bool   // it has logged in with one
	scope   parley.Scope
	expires time.Time // of the token; zero: never

	valid atomic.Uint64 // revision at which the login was last found to be valid, plus 1
}

var _ parley.Subscriber = (*service)(nil)

func (s *service) anybody() bool { return s.actor == nil }

func (s *service) admin() bool { return s.actor != nil && s.actor.Admin }

func (s *service) identity(expires time.Time) parley.Identity {
	return parley.Identity{User: s.actor.User, Incarnation: s.actor.Incarnation, Scope: s.scope, Expires: expires}
}

// self reports whether a name is that of the user who has logged in.
func (s *service) self(name string) bool {
	if s.anybody() || s.admin() {
		return false
	}
	if name == s.actor.User {
		return true
	}
	a, err := s.g.cluster.Account(name)
	return err == nil && a.Key == s.key
}

// Refusals.
var (
	refuseLogin = parley.Result{Code: parley.CodeUnauthenticated, Detail: "log in first: the cluster requires it, or the user has a password"}
	refuseStale = parley.Result{Code: parley.CodeUnauthenticated, Detail: "log in again: the password was changed, the token revoked or expired, or the user deleted"}
	refuseOwner = parley.Result{Code: parley.CodePermissionDenied, Detail: "only the user itself, or an administrator, may do this"}
	refuseAdmin = parley.Result{Code: parley.CodePermissionDenied, Detail: "only an administrator may do this"}
	refuseToken = parley.Result{Code: parley.CodePermissionDenied, Detail: "tokens are made after a login by password, not by token"}
)

func (s *service) refuseScope() parley.Result {
	return parley.Result{Code: parley.CodePermissionDenied, Detail: fmt.Sprintf("the token's scope, %v, does not allow this", s.scope)}
}

// check reports whether the login is still valid, as far as this node knows; the
// answer is CodeOK or a refusal. It is meant for each use: as long as no account
// changes, it costs next to nothing.
func (s *service) check() error {
	if s.anybody() || s.admin() {
		return nil
	}
	revision := s.g.cluster.Revision()
	if !s.expires.IsZero() && !time.Now().Before(s.expires) {
		return refuseStale.Err()
	}
	if s.valid.Load() == revision+1 {
		return nil
	}
	a, err := s.g.cluster.Account(s.actor.User)
	if err != nil {
		return err
	}
	if a.Incarnation != s.actor.Incarnation || !s.vouched(&a) {
		return refuseStale.Err()
	}
	s.valid.Store(revision + 1)
	return nil
}

// vouched reports whether the account still has what was logged in with.
func (s *service) vouched(a *parley.Account) bool {
	if !s.token {
		return a.Changed == s.actor.Credential
	}
	for i := range a.Tokens {
		if uint64(a.Tokens[i].Hash.ID()) == s.actor.Credential {
			return alive(a, &a.Tokens[i])
		}
	}
	return false
}

// findToken finds a token that is valid, nil if there is none.
func findToken(a *parley.Account, h parley.Hash) *parley.Token {
	for i := range a.Tokens {
		if t := &a.Tokens[i]; t.Hash == h && alive(a, t) { // of a hash of 256 random bits, the time gives nothing away
			return t
		}
	}
	return nil
}

// alive reports whether a token has not expired, by the log's time, which stands
// still when nothing is written, and by this node's.
func alive(a *parley.Account, t *parley.Token) bool {
	return t.Expires.IsZero() || t.Expires.After(a.Time) && t.Expires.After(time.Now())
}

// Start implements [parley.Service]. It blocks while it hashes a password, so
// that commands keep their order.
func (s *service) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	r.As = s.actor
	if refusal := s.permit(r.Command); refusal.Code != parley.CodeOK {
		done(refusal, nil)
		return
	}
	var refusal parley.Result
	var err error
	switch c := r.Command.(type) {
	case parley.OpenSession:
		if most := s.g.cfg.Sessions; most > 0 && !s.anybody() && !s.admin() && s.g.cluster.SessionsOf(s.actor.Incarnation) >= most {
			s.g.metrics.sessionsRefused.Inc()
			refusal = parley.Result{Code: parley.CodeTooManySessions, Detail: fmt.Sprintf("%.80q has as many open sessions as a user may have: limit %d", s.actor.User, most)}
		}
	case parley.Send:
		if !s.anybody() {
			if !s.g.sends.Take(s.key) {
				s.g.metrics.refused.Inc()
				done(parley.Result{}, parley.Errorf(parley.CodeOverloaded, "%.80q sends more than %d messages a second by this node", s.actor.User, s.g.cfg.Sends))
				return
			}
			c.From = s.actor.User
			r.Command = c
		}
	case parley.CreateUser:
		r.Command, refusal, err = s.g.createUser(ctx, c)
	case parley.SetPassword:
		r.Command, refusal, err = s.setPassword(ctx, r, c)
	}
	if err != nil || refusal.Code != parley.CodeOK {
		done(refusal, err)
		return
	}
	s.g.cluster.Start(ctx, r, done)
}

// permit says why a command is refused before it is looked at any closer. What
// depends on whom it concerns is the state machine's to decide.
func (s *service) permit(c parley.Command) parley.Result {
	switch c.(type) {
	case parley.OpenSession, parley.CloseSession:
		return parley.Result{}
	case parley.CreateUser:
		return s.permitScope(parley.ScopeFull)
	case parley.StoreUser, parley.StorePassword:
		return parley.Result{Code: parley.CodePermissionDenied, Detail: "this command is for members only"}
	case parley.SetPolicy, parley.AddInvite, parley.RevokeInvite:
		if !s.admin() {
			return refuseAdmin
		}
		return parley.Result{}
	}
	if s.anybody() && s.g.cluster.Policy().Auth == parley.AuthRequired {
		return refuseLogin
	}
	switch c.(type) {
	case parley.Send:
		return s.permitScope(parley.ScopeSend)
	case parley.Ack:
		return s.permitScope(parley.ScopeRead)
	case parley.AddToken:
		if s.token {
			return refuseToken
		}
	}
	return s.permitScope(parley.ScopeFull) // whatever else there may be
}

// permitScope refuses what is not in the token's scope.
func (s *service) permitScope(needed parley.Scope) parley.Result {
	if s.scope == parley.ScopeFull || s.scope == needed {
		return parley.Result{}
	}
	return s.refuseScope()
}

// createUser hashes what the command bears.
func (g *Guard) createUser(ctx context.Context, c parley.CreateUser) (parley.Command, parley.Result, error) {
	if c.Password == "" && c.Invite == "" {
		return c, parley.Result{}, nil
	}
	hashed := parley.StoreUser{Name: c.Name}
	var err error
	if c.Invite != "" {
		if hashed.Invite, err = parley.ParseInvite(c.Invite); err != nil {
			return nil, parley.Result{Code: parley.CodeInviteNeeded, Detail: "this is not an invitation code, or not all of one"}, nil
		}
	}
	if c.Password != "" {
		if why := g.checkPassword(c.Password); why != "" {
			return nil, parley.Result{Code: parley.CodeBadPassword, Detail: why}, nil
		}
		hashed.Verifier, err = g.hasher.hash(ctx, c.Password)
	}
	return hashed, parley.Result{}, err
}

// nobody is no account's Changed.
const nobody = ^uint64(0)

// setPassword checks the current password and hashes the new one. If the current
// one is wrong, that may be because an earlier try of a numbered command has
// changed it: then only the state machine knows, and it is asked with what it
// refuses if it was not so.
func (s *service) setPassword(ctx context.Context, r parley.Request, c parley.SetPassword) (parley.Command, parley.Result, error) {
	if why := s.g.checkPassword(c.New); why != "" {
		return nil, parley.Result{Code: parley.CodeBadPassword, Detail: why}, nil
	}
	a, err := s.g.account(ctx, c.User)
	if err != nil {
		return nil, parley.Result{}, err
	}
	out := parley.StorePassword{User: c.User, Was: a.Changed}
	switch {
	case a.Key == "":
		return nil, parley.Result{Code: parley.CodeNoSuchUser, Detail: fmt.Sprintf("no user is named %.80q", c.User)}, nil
	case s.admin():
	case a.Verifier == "": // it depends on the policy: the state machine decides
	case s.anybody():
		return nil, refuseLogin, nil
	case a.Key != s.key:
		return nil, refuseOwner, nil
	default:
		_, err := s.g.verify(ctx, parley.Credentials{User: c.User, Password: c.Current})
		if parley.CodeOf(err) == parley.CodeUnauthenticated {
			if r.Session == 0 {
				return nil, parley.Result{Code: parley.CodeUnauthenticated, Detail: "the current password is wrong"}, nil
			}
			out.Was = nobody
		} else if err != nil {
			return nil, parley.Result{}, err
		}
	}
	out.Verifier, err = s.g.hasher.hash(ctx, c.New)
	return out, parley.Result{}, err
}
