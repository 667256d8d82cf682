package fsm

import (
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley"
)

// Policy is the policy in force, with its defaults.
func (f *FSM) Policy() parley.Policy {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.st.policy.WithDefaults()
}

// Revision changes whenever an account or the policy has changed. Whoever has seen
// it change sees what has changed.
func (f *FSM) Revision() uint64 { return f.revision.Load() }

// SessionsOf is how many sessions are open that a user has opened once logged in,
// after the entries applied so far.
func (f *FSM) SessionsOf(user parley.Incarnation) int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.st.owned[uint64(user)]
}

// Account is what there is about a user's credentials after the entries applied
// so far. It is for the node itself: it bears hashes.
func (f *FSM) Account(name string) (a parley.Account, err error) {
	key, _, rep := foldName(name, parley.CodeNoSuchUser)
	if rep.code != parley.CodeOK {
		return parley.Account{}, nil
	}
	var payload string
	known := false // payload is what there is; else the checkpoint has it, if anyone
	r := f.ask(func(st *state) {
		a.Time = time.Unix(0, st.now)
		if user := st.directory.get(key); user != nil {
			a.Key, a.Incarnation = key, user.incarnation
			_, a.Name = st.directory.names(user)
		}
		known = a.Key == "" || st.accounts == 0
		for _, g := range [...]*generation{st.active, st.older} {
			if !known {
				payload, known = g.secrets[accountKey(key)]
			}
		}
	}, func(tx *bbolt.Tx) (r parley.Result, err error) {
		if !known {
			payload, err = txRecord(tx, accountKey(key))
		}
		if payload != "" && err == nil {
			err = fillAccount(&a, payload)
		}
		return r, err
	})
	if !r.Code.IsAnswer() {
		return parley.Account{}, &parley.Error{Code: r.Code, Detail: r.Detail}
	}
	return a, nil
}

func fillAccount(a *parley.Account, payload string) error {
	l, ok := readLogin(payload)
	if !ok {
		return bucketAccounts.malformed([]byte(accountKey(a.Key)))
	}
	a.Verifier, a.Changed = l.verifier, l.changed
	for _, t := range l.tokens {
		a.Tokens = append(a.Tokens, parley.Token{Hash: t.hash, Scope: t.scope, Label: t.label, Expires: timeOf(t.expires)})
	}
	return nil
}

// txRecord reads a record of bucket accounts, "" if there is none.
func txRecord(tx *bbolt.Tx, key string) (string, error) {
	value := tx.Bucket(bucketAccounts.name).Get([]byte(key))
	if value == nil {
		return "", nil
	}
	payload, err := bucketAccounts.open([]byte(key), value)
	return string(payload), err
}

// pageInvites is the most invitations in one result.
const pageInvites = 512

// Invites answers the query.
func (f *FSM) Invites(q parley.Invites) parley.Result {
	all := make(map[string]string) // the records by key
	return f.ask(func(st *state) {
		for _, g := range [...]*generation{st.older, st.active} {
			for k, payload := range g.secrets {
				if strings.HasPrefix(k, "i") {
					all[k] = payload
				}
			}
		}
	}, func(tx *bbolt.Tx) (r parley.Result, err error) {
		c := tx.Bucket(bucketAccounts.name).Cursor()
		for k, _ := c.Seek([]byte("i")); k != nil && k[0] == 'i'; k, _ = c.Next() {
			if _, changed := all[string(k)]; !changed {
				if all[string(k)], err = txRecord(tx, string(k)); err != nil {
					return r, err
				}
			}
		}
		return listInvites(all, q.After)
	})
}

func listInvites(all map[string]string, after parley.TokenID) (r parley.Result, err error) {
	var keys []string
	for k, payload := range all {
		if payload != "" && (after == 0 || k >= invitePrefix(after+1)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	if len(keys) > pageInvites {
		keys, r.More = keys[:pageInvites], true
	}
	for _, k := range keys {
		v, ok := readInvite(all[k])
		if !ok {
			return r, bucketAccounts.malformed([]byte(k))
		}
		i := parley.Invite{Uses: v.uses, Expires: timeOf(v.expires)}
		copy(i.Hash[:8], k[1:]) // no more than the id
		r.Invites = append(r.Invites, i)
	}
	return r, nil
}
