package fsm

import (
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley"
)

// authorize says why the actor may not do what a command says. It is decided
// here, at the command's place in the log, so that it cannot race with a change
// of the policy or of an account: what was logged in with must be valid at that
// place, for the user that bears the name there.
//
// That is a second key that a command looks at. Accounts would have to be known
// to each group if the users were ever split into several.
func authorize(st *state, o *op) reply {
	if o.as.kind == aUser && !st.valid(&o.as) {
		return reply{code: parley.CodeUnauthenticated, note: noteStale}
	}
	switch o.kind {
	case opSend, opSendNamed:
		return authorizeSend(st, o)
	case opAck, opDelete, opStorePassword, opAddToken, opRevokeToken:
		return authorizeOwner(st, o)
	case opSetPolicy, opAddInvite, opRevokeInvite:
		if o.as.kind != anAdmin {
			return reply{code: parley.CodePermissionDenied, note: noteAdmin}
		}
	}
	return reply{}
}

// valid reports whether what a user has logged in with still is.
func (st *state) valid(a *actor) bool {
	l := st.login(a.name)
	if l == nil || l.incarnation != a.incarnation {
		return false
	}
	if l.changed == a.credential {
		return true
	}
	t := l.token(parley.TokenID(a.credential))
	return t != nil && !expired(t.expires, st.now)
}

// token finds a token by its id, nil if there is none.
func (l *login) token(id parley.TokenID) *token {
	for i := range l.tokens {
		if l.tokens[i].hash.ID() == id {
			return &l.tokens[i]
		}
	}
	return nil
}

// authorizeSend: nobody bears the name of a user that has a password but that
// user. Of a user that is logged in, the sender's name is that user's: the
// gateway's service sees to it.
func authorizeSend(st *state, o *op) reply {
	switch {
	case o.as.kind == aUser:
		return reply{}
	case o.as.kind == anAdmin:
		return reply{code: parley.CodePermissionDenied, note: noteNotOwner}
	case st.policy.Auth == parley.AuthRequired:
		return reply{code: parley.CodeUnauthenticated, note: noteLogin}
	case st.accounts == 0 || o.from == 0:
		return reply{}
	}
	sender := o.sender
	if sender == "" {
		sender = strings.ToLower(o.text[:o.from]) // as Fold does with ASCII; there is no user of another such name
	}
	if st.login(sender) != nil {
		return reply{code: parley.CodeUnauthenticated, note: noteSender}
	}
	return reply{}
}

// authorizeOwner: what concerns a user is for that user, or, where that is open,
// for everybody if the user has no password.
func authorizeOwner(st *state, o *op) reply {
	open := st.policy.Auth == parley.AuthOpen && o.kind != opAddToken && st.login(o.name) == nil
	switch {
	case o.as.kind == anAdmin && o.kind != opAck, o.as.kind == aUser && o.as.name == o.name:
		return reply{}
	case o.as.kind == anAdmin, o.as.kind == aUser && !open:
		return reply{code: parley.CodePermissionDenied, note: noteNotOwner}
	case !open:
		return reply{code: parley.CodeUnauthenticated, note: noteLogin}
	}
	return reply{}
}

// register sees to what a new user must bring, and gives it its password. The
// caller adds the user.
func (st *state) register(o *op) reply {
	a := o.account
	if a == nil {
		a = &accountOp{}
	}
	if a.verifier == "" && st.policy.Auth == parley.AuthRequired {
		return reply{code: parley.CodePasswordNeeded, note: notePassword}
	}
	if st.policy.Registration == parley.RegistrationInvite && o.as.kind != anAdmin {
		key := inviteKey(a.invite)
		v, ok := readInvite(st.record(key))
		if !ok || expired(v.expires, st.now) {
			return reply{code: parley.CodeInviteNeeded, note: noteInvite}
		}
		if v.uses--; v.uses == 0 {
			st.invites--
			st.putRecord(key, "")
		} else {
			st.putRecord(key, string(v.append(nil)))
		}
	}
	if a.verifier != "" {
		st.accounts++
		st.putLogin(o.name, &login{incarnation: parley.Incarnation(o.pos), verifier: a.verifier, changed: o.pos})
	}
	return reply{}
}

// performAccount is perform for commands about accounts.
func performAccount(st *state, o *op) reply {
	a := o.account
	switch o.kind {
	case opStorePassword:
		return storePassword(st, o)
	case opAddToken:
		return addToken(st, o)
	case opRevokeToken:
		return revokeToken(st, o)
	case opSetPolicy:
		st.policy = a.policy
		st.revision.Add(1)
	case opAddInvite:
		key := inviteKey(a.invite)
		if st.record(key) == "" {
			if limit := uint64(st.policy.WithDefaults().Invites); st.invites >= limit {
				return reply{code: parley.CodeTooManyInvites, note: noteInvites, value: limit}
			}
			st.invites++
		}
		st.putRecord(key, string(a.left.append(nil)))
	case opRevokeInvite:
		return revokeInvite(st, a.id)
	}
	return reply{}
}

func storePassword(st *state, o *op) reply {
	user := st.directory.get(o.name)
	if user == nil {
		return reply{code: parley.CodeNoSuchUser}
	}
	now := login{incarnation: user.incarnation}
	was := st.login(o.name)
	if was != nil {
		now = *was
	}
	if now.changed != o.account.was { // decided on another password than there is now
		return reply{code: parley.CodeUnauthenticated, note: noteStale}
	}
	now.verifier = o.account.verifier
	if !o.account.rehash || was == nil {
		now.changed = o.pos
	}
	if was == nil {
		st.accounts++
	}
	st.putLogin(o.name, &now)
	return reply{}
}

func addToken(st *state, o *op) reply {
	if st.directory.get(o.name) == nil {
		return reply{code: parley.CodeNoSuchUser}
	}
	was := st.login(o.name)
	if was == nil {
		return reply{code: parley.CodePasswordNeeded, note: notePassword}
	}
	t, now := o.account.token, *was
	// Those that have expired make room.
	now.tokens = slices.DeleteFunc(slices.Clone(was.tokens), func(old token) bool {
		return old.hash.ID() == t.hash.ID() || expired(old.expires, st.now)
	})
	if limit := uint64(st.policy.WithDefaults().Tokens); uint64(len(now.tokens)) >= limit {
		return reply{code: parley.CodeTooManyTokens, note: noteTokens, value: limit}
	}
	now.tokens = append(now.tokens, t)
	st.putLogin(o.name, &now)
	return reply{}
}

func revokeToken(st *state, o *op) reply {
	if st.directory.get(o.name) == nil {
		return reply{code: parley.CodeNoSuchUser}
	}
	was, id := st.login(o.name), o.account.id
	if id != 0 && (was == nil || was.token(id) == nil) {
		return reply{code: parley.CodeNoSuchToken}
	}
	if was == nil || len(was.tokens) == 0 {
		return reply{}
	}
	now := *was
	now.tokens = slices.DeleteFunc(slices.Clone(was.tokens), func(t token) bool { return id == 0 || t.hash.ID() == id })
	st.putLogin(o.name, &now)
	return reply{}
}

// revokeInvite removes the invitations of an id; there is hardly ever more than one.
func revokeInvite(st *state, id parley.TokenID) reply {
	prefix := invitePrefix(id)
	keys := make(map[string]bool)
	for _, g := range [...]*generation{st.older, st.active} {
		for k := range g.secrets {
			if strings.HasPrefix(k, prefix) {
				keys[k] = true
			}
		}
	}
	err := st.read(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketAccounts.name).Cursor()
		for k, _ := c.Seek([]byte(prefix)); strings.HasPrefix(string(k), prefix); k, _ = c.Next() {
			keys[string(k)] = true
		}
		return nil
	})
	if err != nil {
		st.err = err
	}
	found := reply{code: parley.CodeNoSuchToken}
	for k := range keys { // the order does not matter
		if st.record(k) != "" {
			st.invites--
			st.putRecord(k, "")
			found = reply{}
		}
	}
	return found
}
