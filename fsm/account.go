package fsm

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley"
)

// The longest texts of an account.
const (
	maxVerifier = 256 // bytes of a hashed password with its parameters
	maxLabel    = 64  // bytes of a token's label
	maxTokens   = 1 << 10
)

// policyMeta is what a checkpoint says of all accounts: the policy, and how many
// there are in bucket accounts.
type policyMeta struct {
	policy   parley.Policy // without defaults
	accounts uint64        // users with a password
	invites  uint64
}

func (m *policyMeta) append(dst []byte) []byte {
	dst = appendPolicy(dst, m.policy)
	return binary.AppendUvarint(binary.AppendUvarint(dst, m.accounts), m.invites)
}

func readPolicyMeta(payload string) (m policyMeta, ok bool) {
	r := reader{s: payload}
	m.policy = readPolicy(&r)
	m.accounts, m.invites = r.uvarint(), r.uvarint()
	return m, r.done()
}

func appendPolicy(dst []byte, p parley.Policy) []byte {
	dst = append(dst, byte(p.Auth), byte(p.Registration))
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(p.Tokens)), uint64(p.Invites))
}

func readPolicy(r *reader) parley.Policy {
	p := parley.Policy{Auth: parley.AuthMode(r.byte()), Registration: parley.RegistrationMode(r.byte())}
	p.Tokens, p.Invites = uint32(r.small(maxTokens)), uint32(r.small(1<<32-1))
	if p.Auth > parley.AuthRequired || p.Registration > parley.RegistrationInvite {
		r.fail() // of a newer version: nothing to be guessed about
	}
	return p
}

// login is what a user can log in with. A user without a password has none. It
// does not change once it is in the state.
type login struct {
	incarnation parley.Incarnation
	verifier    string // of the password
	changed     uint64 // where in the log the password was set
	tokens      []token
}

type token struct {
	hash    parley.Hash
	scope   parley.Scope
	label   string
	expires int64 // state time; 0: never
}

// Keys of bucket accounts.
func accountKey(name string) string { return "u" + name }

func inviteKey(h parley.Hash) string { return "i" + string(h[:]) }

// invitePrefix is what the keys of all invitations of an id begin with.
func invitePrefix(id parley.TokenID) string {
	return string(binary.BigEndian.AppendUint64([]byte("i"), uint64(id)))
}

func (l *login) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(l.incarnation))
	dst = binary.AppendUvarint(dst, l.changed)
	dst = appendString(dst, l.verifier)
	dst = binary.AppendUvarint(dst, uint64(len(l.tokens)))
	for i := range l.tokens {
		dst = l.tokens[i].append(dst)
	}
	return dst
}

func readLogin(payload string) (*login, bool) {
	r := reader{s: payload}
	l := &login{incarnation: parley.Incarnation(r.uvarint()), changed: r.uvarint(), verifier: r.string(maxVerifier)}
	for range r.small(maxTokens) {
		l.tokens = append(l.tokens, readToken(&r))
	}
	return l, r.done() && l.incarnation != 0 && l.changed != 0 && l.verifier != ""
}

// clone returns a copy without parts of the log entry, which would stay in memory.
func (l *login) clone() *login {
	c := *l
	c.verifier, c.tokens = strings.Clone(l.verifier), slices.Clone(l.tokens)
	for i := range c.tokens {
		c.tokens[i].label = strings.Clone(c.tokens[i].label)
	}
	return &c
}

func (t *token) append(dst []byte) []byte {
	dst = append(append(dst, t.hash[:]...), byte(t.scope))
	dst = appendString(dst, t.label)
	return binary.BigEndian.AppendUint64(dst, uint64(t.expires))
}

func readToken(r *reader) (t token) {
	copy(t.hash[:], r.bytes(uint64(len(t.hash))))
	t.scope = parley.Scope(r.byte())
	t.label, t.expires = r.string(maxLabel), r.int64()
	if t.scope > parley.ScopeRead || t.expires < 0 || !utf8.ValidString(t.label) {
		r.fail()
	}
	return t
}

// expired reports whether something that ends at a time has ended.
func expired(expires, now int64) bool { return expires != 0 && expires <= now }

// invite is what is left of an invitation.
type invite struct {
	uses    uint32
	expires int64 // state time; 0: never
}

func (v invite) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(v.uses))
	return binary.BigEndian.AppendUint64(dst, uint64(v.expires))
}

func readInvite(payload string) (v invite, ok bool) {
	r := reader{s: payload}
	v.uses, v.expires = uint32(r.small(1<<32-1)), r.int64()
	return v, r.done() && v.uses > 0 && v.expires >= 0
}

// secret checks a record of bucket accounts.
func (v *verifier) secret(key, payload string) bool {
	switch {
	case strings.HasPrefix(key, "u"):
		v.accounts++
		l, ok := readLogin(payload)
		a := v.directory.get(key[1:])
		return ok && a != nil && a.incarnation == l.incarnation
	case strings.HasPrefix(key, "i") && len(key) == len(inviteKey(parley.Hash{})):
		v.invites++
		_, ok := readInvite(payload)
		return ok
	}
	return false
}

// record finds a record of bucket accounts, "" if there is none.
func (st *state) record(key string) (payload string) {
	for _, g := range [...]*generation{st.active, st.older} {
		if payload, ok := g.secrets[key]; ok {
			return payload
		}
	}
	err := st.read(func(tx *bbolt.Tx) (err error) {
		payload, err = txRecord(tx, key)
		return err
	})
	if err != nil {
		st.err = err
	}
	return payload
}

// putRecord changes a record of bucket accounts; "" removes it.
func (st *state) putRecord(key, payload string) {
	st.active.bytes += costName + int64(len(key)+len(payload))
	st.active.secrets[key] = payload
	st.revision.Add(1)
}

// maxLogins bounds state.logins.
const maxLogins = 1 << 14

// login finds what a user can log in with, nil if it has no password. Those that
// were found before are kept, decoded: everybody who sends is looked for.
func (st *state) login(name string) *login {
	if st.accounts == 0 {
		return nil
	}
	l, ok := st.logins[name]
	if ok {
		return l
	}
	key := accountKey(name)
	if payload := st.record(key); payload != "" {
		if l, ok = readLogin(payload); !ok && st.err == nil {
			st.err = bucketAccounts.malformed([]byte(key))
		}
	}
	st.keepLogin(name, l)
	return l
}

func (st *state) keepLogin(name string, l *login) {
	if len(st.logins) >= maxLogins {
		clear(st.logins)
	}
	st.logins[strings.Clone(name)] = l
}

func (st *state) putLogin(name string, l *login) {
	st.putRecord(accountKey(name), string(l.append(nil)))
	st.keepLogin(name, l.clone())
}

// dropLogin forgets what a user can log in with.
func (st *state) dropLogin(name string) {
	if st.login(name) == nil {
		return
	}
	st.accounts--
	st.putRecord(accountKey(name), "")
	st.keepLogin(name, nil)
}

func timeOf(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
