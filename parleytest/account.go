package parleytest

import (
	"slices"
	"strings"

	"github.com/parley-chat/parley"
)

// login is what a user can log in with.
type login struct {
	verifier string
	changed  uint64
	tokens   []parley.Token
}

// Policy is the policy in force, with its defaults.
func (f *Fake) Policy() parley.Policy {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.policy.WithDefaults()
}

// Revision changes whenever an account or the policy has.
func (f *Fake) Revision() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revision
}

// Account is what there is about a user's credentials.
func (f *Fake) Account(name string) (parley.Account, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed() {
		return parley.Account{}, shutDown()
	}
	key, m := f.find(name)
	if m == nil {
		return parley.Account{Time: f.stamp}, nil
	}
	a := parley.Account{Key: key, Name: m.name, Incarnation: m.born, Time: f.stamp}
	if l := m.login; l != nil {
		a.Verifier, a.Changed, a.Tokens = l.verifier, l.changed, slices.Clone(l.tokens)
	}
	return a, nil
}

// owner is whose the sessions are that an actor opens.
func owner(as *parley.Actor) uint64 {
	switch {
	case as == nil:
		return 0
	case as.Admin:
		return ^uint64(0) // no incarnation
	}
	return uint64(as.Incarnation)
}

// authorize says why the actor may not do what a command says; the answer is
// CodeOK if it may. mu is held.
func (f *Fake) authorize(as *parley.Actor, c parley.Command) parley.Result {
	key, _, _ := fold(c.Key())
	_, target := f.find(c.Key())
	actorKey := ""
	if as != nil && !as.Admin {
		var m *mailbox
		if actorKey, m = f.find(as.User); m == nil || m.born != as.Incarnation || !m.vouches(as.Credential, f) {
			return refuse(parley.CodeUnauthenticated, "log in again")
		}
	}
	closed := f.policy.Auth == parley.AuthRequired
	switch c := c.(type) {
	case parley.Send:
		_, sender := f.find(c.From)
		switch {
		case actorKey != "":
		case as != nil:
			return refuse(parley.CodePermissionDenied, "an administrator sends nothing")
		case closed || sender != nil && sender.login != nil:
			return refuse(parley.CodeUnauthenticated, "log in first")
		}
	case parley.Ack, parley.DeleteUser, parley.StorePassword, parley.AddToken, parley.RevokeToken:
		_, ack := c.(parley.Ack)
		_, add := c.(parley.AddToken)
		closed = closed || add || target != nil && target.login != nil
		switch {
		case actorKey != "" && actorKey == key, as != nil && as.Admin && !ack:
		case as != nil && (as.Admin || closed):
			return refuse(parley.CodePermissionDenied, "only the user itself may do this")
		case closed:
			return refuse(parley.CodeUnauthenticated, "log in first")
		}
	case parley.SetPolicy, parley.AddInvite, parley.RevokeInvite:
		if as == nil || !as.Admin {
			return refuse(parley.CodePermissionDenied, "only an administrator may do this")
		}
	}
	return parley.Result{}
}

// vouches reports whether what was logged in with is still valid.
func (m *mailbox) vouches(credential uint64, f *Fake) bool {
	if m.login == nil {
		return false
	}
	return m.login.changed == credential || slices.ContainsFunc(m.login.tokens, func(t parley.Token) bool {
		return uint64(t.Hash.ID()) == credential && (t.Expires.IsZero() || t.Expires.After(f.stamp))
	})
}

// register sees to what a new user must bring. mu is held.
func (f *Fake) register(as *parley.Actor, verifier string, hash parley.Hash) (*login, parley.Result) {
	if verifier == "" && f.policy.Auth == parley.AuthRequired {
		return nil, refuse(parley.CodePasswordNeeded, "users need a password")
	}
	if f.policy.Registration == parley.RegistrationInvite && (as == nil || !as.Admin) {
		i, ok := f.invites[hash]
		if !ok || !i.Expires.IsZero() && !i.Expires.After(f.stamp) {
			return nil, refuse(parley.CodeInviteNeeded, "no such invitation")
		}
		if i.Uses--; i.Uses == 0 {
			delete(f.invites, hash)
		} else {
			f.invites[hash] = i
		}
	}
	if verifier == "" {
		return nil, parley.Result{}
	}
	return &login{verifier: verifier, changed: f.log}, parley.Result{}
}

// applyAccount carries out a command about accounts. mu is held.
func (f *Fake) applyAccount(c parley.Command) (parley.Result, error) {
	f.revision++
	_, m := f.find(c.Key())
	switch c := c.(type) {
	case parley.SetPolicy:
		f.policy = c.Policy
		return parley.Result{}, nil
	case parley.AddInvite:
		if _, old := f.invites[c.Invite.Hash]; !old && len(f.invites) >= int(f.policy.WithDefaults().Invites) {
			return refuse(parley.CodeTooManyInvites, "the limit is %d", f.policy.WithDefaults().Invites), nil
		}
		c.Invite.Uses = max(1, c.Invite.Uses)
		f.invites[c.Invite.Hash] = c.Invite
		return parley.Result{}, nil
	case parley.RevokeInvite:
		for h := range f.invites {
			if h.ID() == c.ID {
				delete(f.invites, h)
				return parley.Result{}, nil
			}
		}
		return refuse(parley.CodeNoSuchToken, "no invitation %v", c.ID), nil
	case parley.StorePassword, parley.AddToken, parley.RevokeToken:
		if m == nil {
			return noSuchUser(c.Key()), nil
		}
	default:
		return parley.Result{}, parley.Errorf(parley.CodeUnsupported, "command %T", c)
	}
	now := login{}
	if m.login != nil {
		now = *m.login
	}
	r := f.changeLogin(&now, c)
	if r.Code == parley.CodeOK && now.verifier != "" {
		m.login = &now
	}
	return r, nil
}

func (f *Fake) changeLogin(now *login, c parley.Command) parley.Result {
	switch c := c.(type) {
	case parley.StorePassword:
		if now.changed != c.Was {
			return refuse(parley.CodeUnauthenticated, "the password was changed meanwhile")
		}
		if now.verifier = c.Verifier; !c.Rehash || now.changed == 0 {
			now.changed = f.log
		}
	case parley.AddToken:
		if now.verifier == "" {
			return refuse(parley.CodePasswordNeeded, "users with tokens need a password")
		}
		tokens := slices.DeleteFunc(slices.Clone(now.tokens), func(t parley.Token) bool {
			return t.Hash.ID() == c.Token.Hash.ID() || !t.Expires.IsZero() && !t.Expires.After(f.stamp)
		})
		if limit := int(f.policy.WithDefaults().Tokens); len(tokens) >= limit {
			return refuse(parley.CodeTooManyTokens, "the limit is %d", limit)
		}
		now.tokens = append(tokens, c.Token)
	case parley.RevokeToken:
		left := slices.DeleteFunc(slices.Clone(now.tokens), func(t parley.Token) bool { return c.ID == 0 || t.Hash.ID() == c.ID })
		if c.ID != 0 && len(left) == len(now.tokens) {
			return refuse(parley.CodeNoSuchToken, "no token %v", c.ID)
		}
		now.tokens = left
	}
	return parley.Result{}
}

// getAccount answers a query about accounts. mu is held.
func (f *Fake) getAccount(q parley.Query) (parley.Result, error) {
	switch q := q.(type) {
	case parley.GetPolicy:
		policy := f.policy.WithDefaults()
		return parley.Result{Policy: &policy}, nil
	case parley.Tokens:
		_, m := f.find(q.User)
		if m == nil {
			return noSuchUser(q.User), nil
		}
		a := parley.Account{}
		if m.login != nil {
			a.Tokens = m.login.tokens
		}
		return parley.Result{Tokens: a.PublicTokens()}, nil
	case parley.Invites:
		var r parley.Result
		for h, i := range f.invites {
			if h.ID() > q.After {
				clear(i.Hash[8:])
				r.Invites = append(r.Invites, i)
			}
		}
		slices.SortFunc(r.Invites, func(a, b parley.Invite) int {
			return strings.Compare(a.Hash.ID().String(), b.Hash.ID().String())
		})
		return r, nil
	}
	return parley.Result{}, parley.Errorf(parley.CodeUnsupported, "query %T", q)
}

// SessionsOf is how many sessions are open that a user has opened once logged in.
func (f *Fake) SessionsOf(user parley.Incarnation) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sessions {
		if s.owner == owner(&parley.Actor{Incarnation: user}) {
			n++
		}
	}
	return n
}
