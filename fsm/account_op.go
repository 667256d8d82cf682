package fsm

import (
	"encoding/binary"
	"time"
	"unicode/utf8"

	"github.com/parley-chat/parley"
)

// actor is in whose name a command is made.
type actor struct {
	kind        actorKind
	name        string // folded
	incarnation parley.Incarnation
	credential  uint64 // as parley.Actor.Credential
}

type actorKind uint8

const (
	anybody actorKind = iota
	aUser
	anAdmin
)

// ownerAdmin is the owner of administrators' sessions. Users' are incarnations,
// which are greater.
const ownerAdmin = 1

// owner is whose the sessions are that the actor opens; 0: anybody's.
func (a *actor) owner() uint64 {
	switch a.kind {
	case aUser:
		return uint64(a.incarnation)
	case anAdmin:
		return ownerAdmin
	}
	return 0
}

// append appends the name and, unless that is empty, which means an
// administrator, the numbers.
func (a *actor) append(dst []byte) []byte {
	dst = appendString(dst, a.name)
	if a.kind == aUser {
		dst = binary.AppendUvarint(dst, uint64(a.incarnation))
		dst = binary.AppendUvarint(dst, a.credential)
	}
	return dst
}

func readActor(r *reader) actor {
	if len(r.s) > 0 && r.s[0] == 0 {
		r.byte()
		return actor{kind: anAdmin}
	}
	a := actor{kind: aUser, name: readName(r)}
	a.incarnation, a.credential = parley.Incarnation(r.uvarint()), r.uvarint()
	if a.incarnation == 0 {
		r.fail()
	}
	return a
}

// fill takes over who acts, nil: anybody.
func (a *actor) fill(as *parley.Actor) (rep reply) {
	switch {
	case as == nil:
	case as.Admin:
		a.kind = anAdmin
	default:
		a.kind, a.incarnation, a.credential = aUser, as.Incarnation, as.Credential
		a.name, _, rep = foldName(as.User, parley.CodeUnauthenticated)
		if a.incarnation == 0 && rep.code == parley.CodeOK {
			rep = reply{code: parley.CodeUnauthenticated, note: noteLogin}
		}
		if rep.code != parley.CodeOK {
			*a = actor{}
		}
	}
	return rep
}

// accountOp is what commands about accounts bear. Which fields mean something is
// said at the kinds.
type accountOp struct {
	verifier string
	invite   parley.Hash // zero: none
	was      uint64
	rehash   bool
	token    token
	id       parley.TokenID
	policy   parley.Policy
	left     invite
}

func (o *op) appendAccount(dst []byte) []byte {
	a := o.account
	switch o.kind {
	case opStoreUser:
		dst = appendString(appendString(dst, o.name), o.shown)
		dst = append(appendString(dst, a.verifier), a.invite[:]...)
	case opStorePassword:
		dst = appendString(appendString(dst, o.name), a.verifier)
		dst = binary.AppendUvarint(dst, a.was)
		if a.rehash {
			return append(dst, 1)
		}
		dst = append(dst, 0)
	case opAddToken:
		dst = a.token.append(appendString(dst, o.name))
	case opRevokeToken:
		dst = binary.BigEndian.AppendUint64(appendString(dst, o.name), uint64(a.id))
	case opSetPolicy:
		dst = appendPolicy(dst, a.policy)
	case opAddInvite:
		dst = a.left.append(append(dst, a.invite[:]...))
	case opRevokeInvite:
		dst = binary.BigEndian.AppendUint64(dst, uint64(a.id))
	}
	return dst
}

func (o *op) readAccount(r *reader) {
	a := &accountOp{}
	o.account = a
	switch o.kind {
	case opStoreUser:
		o.name, o.shown, a.verifier = readName(r), r.string(maxName), r.string(maxVerifier)
		copy(a.invite[:], r.bytes(uint64(len(a.invite))))
	case opStorePassword:
		o.name, a.verifier, a.was = readName(r), r.string(maxVerifier), r.uvarint()
		switch r.byte() {
		case 0:
		case 1:
			a.rehash = true
		default:
			r.fail()
		}
		if a.verifier == "" {
			r.fail()
		}
	case opAddToken:
		o.name, a.token = readName(r), readToken(r)
	case opRevokeToken:
		o.name, a.id = readName(r), parley.TokenID(r.int64())
	case opSetPolicy:
		a.policy = readPolicy(r)
	case opAddInvite:
		copy(a.invite[:], r.bytes(uint64(len(a.invite))))
		a.left = invite{uses: uint32(r.small(1<<32 - 1)), expires: r.int64()}
		if a.left.uses == 0 || a.left.expires < 0 {
			r.fail()
		}
	case opRevokeInvite:
		a.id = parley.TokenID(r.int64())
	}
}

// fillAccount is fill for the commands about accounts.
func (o *op) fillAccount(c parley.Command) (rep reply) {
	a := &accountOp{}
	o.account = a
	switch c := c.(type) {
	case parley.StoreUser:
		o.kind, a.verifier, a.invite = opStoreUser, c.Verifier, c.Invite
		if len(c.Verifier) > maxVerifier {
			return reply{code: parley.CodeBadRequest, note: noteVerifier}
		}
		o.name, o.shown, rep = foldName(c.Name, parley.CodeBadName)
		return rep
	case parley.StorePassword:
		a.verifier, a.was, a.rehash = c.Verifier, c.Was, c.Rehash
		if c.Verifier == "" || len(c.Verifier) > maxVerifier {
			return reply{code: parley.CodeBadRequest, note: noteVerifier}
		}
		return o.fillUser(opStorePassword, c.User)
	case parley.AddToken:
		t := c.Token
		a.token = token{hash: t.Hash, scope: t.Scope, label: t.Label, expires: stampOf(t.Expires)}
		switch {
		case len(t.Label) > maxLabel || !utf8.ValidString(t.Label):
			return reply{code: parley.CodeBadRequest, note: noteTokenLabel}
		case t.Scope > parley.ScopeRead:
			return reply{code: parley.CodeBadRequest, note: noteScope}
		}
		return o.fillUser(opAddToken, c.User)
	case parley.RevokeToken:
		a.id = c.ID
		return o.fillUser(opRevokeToken, c.User)
	case parley.SetPolicy:
		o.kind, a.policy = opSetPolicy, c.Policy
		if c.Policy.Auth > parley.AuthRequired || c.Policy.Registration > parley.RegistrationInvite || c.Policy.Tokens > maxTokens {
			return reply{code: parley.CodeBadRequest, note: noteScope}
		}
	case parley.AddInvite:
		o.kind, a.invite = opAddInvite, c.Invite.Hash
		a.left = invite{uses: max(c.Invite.Uses, 1), expires: stampOf(c.Invite.Expires)}
	case parley.RevokeInvite:
		o.kind, a.id = opRevokeInvite, c.ID
	default: // SetPassword among them, which bears a secret
		return reply{code: parley.CodeUnsupported}
	}
	return reply{}
}

// stampOf is a time as the state has it; 0 for none.
func stampOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.UnixNano(), 1)
}
