package wire

import (
	"encoding/binary"

	"github.com/parley-chat/parley"
)

// The numbers of the commands and queries about accounts. Those of members are
// sent between members only; a node takes them from nobody else.
const (
	cmdSetPassword   = 7
	cmdAddToken      = 8
	cmdRevokeToken   = 9
	cmdSetPolicy     = 10
	cmdAddInvite     = 11
	cmdRevokeInvite  = 12
	cmdRegister      = 13 // CreateUser with a password or an invitation
	cmdStoreUser     = 14 // members
	cmdStorePassword = 15 // members
	cmdAs            = 16 // members: an actor, and the command that is made in its name

	queryPolicy  = 4
	queryTokens  = 5
	queryInvites = 6
)

// The fewest bytes that an item of a list takes.
const (
	minToken  = 35
	minInvite = 34
)

func appendActor(b []byte, a *parley.Actor) []byte {
	b = binary.AppendUvarint(appendRaw(b, a.User), uint64(a.Incarnation))
	return appendBool(binary.AppendUvarint(b, a.Credential), a.Admin)
}

func (d *fields) actor() *parley.Actor {
	return &parley.Actor{User: d.raw(), Incarnation: parley.Incarnation(d.uvarint()), Credential: d.uvarint(), Admin: d.bool()}
}

func appendAccountCommand(b []byte, c parley.Command) ([]byte, bool) {
	switch c := c.(type) {
	case parley.CreateUser:
		b = appendRaw(append(b, cmdRegister), c.Name)
		return appendRaw(appendRaw(b, string(c.Password)), string(c.Invite)), true
	case parley.SetPassword:
		b = appendRaw(append(b, cmdSetPassword), c.User)
		return appendRaw(appendRaw(b, string(c.Current)), string(c.New)), true
	case parley.AddToken:
		return appendToken(appendRaw(append(b, cmdAddToken), c.User), &c.Token), true
	case parley.RevokeToken:
		return binary.AppendUvarint(appendRaw(append(b, cmdRevokeToken), c.User), uint64(c.ID)), true
	case parley.SetPolicy:
		return appendPolicy(append(b, cmdSetPolicy), &c.Policy), true
	case parley.AddInvite:
		return appendInvite(append(b, cmdAddInvite), &c.Invite), true
	case parley.RevokeInvite:
		return binary.AppendUvarint(append(b, cmdRevokeInvite), uint64(c.ID)), true
	case parley.StoreUser:
		b = appendRaw(appendRaw(append(b, cmdStoreUser), c.Name), c.Verifier)
		return append(b, c.Invite[:]...), true
	case parley.StorePassword:
		b = appendRaw(appendRaw(append(b, cmdStorePassword), c.User), c.Verifier)
		return appendBool(binary.AppendUvarint(b, c.Was), c.Rehash), true
	}
	return b, false
}

func (d *fields) accountCommand(number byte, r *parley.Request) bool {
	switch number {
	case cmdRegister:
		c := parley.CreateUser{Name: d.raw(), Password: parley.Secret(d.raw()), Invite: parley.Secret(d.raw())}
		if d.bad == "" && c.Password == "" && c.Invite == "" {
			d.fail("a command of number 13 without secrets, which is number 1")
		}
		r.Command = c
	case cmdSetPassword:
		r.Command = parley.SetPassword{User: d.raw(), Current: parley.Secret(d.raw()), New: parley.Secret(d.raw())}
	case cmdAddToken:
		r.Command = parley.AddToken{User: d.raw(), Token: d.token()}
	case cmdRevokeToken:
		r.Command = parley.RevokeToken{User: d.raw(), ID: parley.TokenID(d.uvarint())}
	case cmdSetPolicy:
		r.Command = parley.SetPolicy{Policy: d.policy()}
	case cmdAddInvite:
		r.Command = parley.AddInvite{Invite: d.invite()}
	case cmdRevokeInvite:
		r.Command = parley.RevokeInvite{ID: parley.TokenID(d.uvarint())}
	case cmdStoreUser:
		r.Command = parley.StoreUser{Name: d.raw(), Verifier: d.raw(), Invite: d.hash()}
	case cmdStorePassword:
		r.Command = parley.StorePassword{User: d.raw(), Verifier: d.raw(), Was: d.uvarint(), Rehash: d.bool()}
	default:
		return false
	}
	return true
}

func appendToken(b []byte, t *parley.Token) []byte {
	b = append(append(b, t.Hash[:]...), byte(t.Scope))
	return appendTime(appendRaw(b, t.Label), t.Expires)
}

func (d *fields) token() parley.Token {
	return parley.Token{Hash: d.hash(), Scope: parley.Scope(d.byte()), Label: d.raw(), Expires: d.time()}
}

func appendInvite(b []byte, i *parley.Invite) []byte {
	return appendTime(binary.AppendUvarint(append(b, i.Hash[:]...), uint64(i.Uses)), i.Expires)
}

func (d *fields) invite() parley.Invite {
	return parley.Invite{Hash: d.hash(), Uses: d.uint32(), Expires: d.time()}
}

func appendPolicy(b []byte, p *parley.Policy) []byte {
	b = append(b, byte(p.Auth), byte(p.Registration))
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(p.Tokens)), uint64(p.Invites))
}

func (d *fields) policy() parley.Policy {
	return parley.Policy{
		Auth: parley.AuthMode(d.byte()), Registration: parley.RegistrationMode(d.byte()),
		Tokens: d.uint32(), Invites: d.uint32(),
	}
}

func (d *fields) uint32() uint32 {
	n := d.uvarint()
	if n > 1<<32-1 {
		d.fail("a number beyond 32 bits")
	}
	return uint32(n)
}

func (d *fields) hash() (h parley.Hash) {
	if len(d.b) < len(h) {
		d.fail("a hash of less than 32 bytes")
		return h
	}
	d.b = d.b[copy(h[:], d.b):]
	return h
}

func appendAccountResult(b []byte, has uint64, r *parley.Result) []byte {
	if has&hasPolicy != 0 {
		b = appendPolicy(b, r.Policy)
	}
	if has&hasTokens != 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Tokens)))
		for i := range r.Tokens {
			b = appendToken(b, &r.Tokens[i])
		}
	}
	if has&hasInvites != 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Invites)))
		for i := range r.Invites {
			b = appendInvite(b, &r.Invites[i])
		}
	}
	return b
}

func (d *fields) accountResult(has uint64, r *parley.Result) {
	if has&hasPolicy != 0 {
		p := d.policy()
		r.Policy = &p
	}
	if has&hasTokens != 0 {
		for range d.count(minToken) {
			r.Tokens = append(r.Tokens, d.token())
		}
	}
	if has&hasInvites != 0 {
		for range d.count(minInvite) {
			r.Invites = append(r.Invites, d.invite())
		}
	}
}
