package fsm

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/parley-chat/parley"
)

// account reads the commands about accounts in scripts. A hash is a letter that
// it consists of. nil: it is none of them.
func (s *script) account(w []string) parley.Command {
	hash := func(w string) (h parley.Hash) {
		for i := range h {
			h[i] = w[0]
		}
		return h
	}
	until := func(w string) time.Time {
		if w == "" {
			return time.Time{}
		}
		d, err := time.ParseDuration(w)
		if err != nil {
			s.t.Fatal(err)
		}
		return epoch.Add(d)
	}
	switch w[0] {
	case "register": // NAME VERIFIER INVITE
		c := parley.StoreUser{Name: w[1], Verifier: w[2]}
		if len(w) > 3 {
			c.Invite = hash(w[3])
		}
		return c
	case "password": // USER VERIFIER WAS [rehash]
		return parley.StorePassword{User: w[1], Verifier: w[2], Was: s.credential(w[3]), Rehash: len(w) > 4}
	case "token": // USER HASH SCOPE UNTIL
		return parley.AddToken{User: w[1], Token: parley.Token{Hash: hash(w[2]), Scope: parley.Scope(s.num(w[3])), Label: "of " + w[1], Expires: until(w[4])}}
	case "revoke": // USER HASH, _ for all
		if w[2] == "" {
			return parley.RevokeToken{User: w[1]}
		}
		return parley.RevokeToken{User: w[1], ID: hash(w[2]).ID()}
	case "policy": // AUTH REGISTRATION TOKENS INVITES
		return parley.SetPolicy{Policy: parley.Policy{
			Auth: parley.AuthMode(s.num(w[1])), Registration: parley.RegistrationMode(s.num(w[2])),
			Tokens: uint32(s.num(w[3])), Invites: uint32(s.num(w[4])),
		}}
	case "invite": // HASH USES UNTIL
		return parley.AddInvite{Invite: parley.Invite{Hash: hash(w[1]), Uses: uint32(s.num(w[2])), Expires: until(w[3])}}
	case "uninvite": // HASH
		return parley.RevokeInvite{ID: hash(w[1]).ID()}
	}
	return nil
}

// credential reads INDEX.POSITION, a token's letter, or nothing.
func (s *script) credential(w string) uint64 {
	switch {
	case w == "":
		return 0
	case strings.Contains(w, "."):
		return s.pos(w)
	}
	return uint64(parley.Hash([]byte(strings.Repeat(w, 32))).ID())
}

func (s *script) tokens(user string) string {
	a, err := s.f.Account(user)
	if err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %d.%d changed=%d.%d verifier=%s\n", a.Name, a.Incarnation>>16, a.Incarnation&0xffff, a.Changed>>16, a.Changed&0xffff, a.Verifier)
	for _, t := range a.Tokens {
		fmt.Fprintf(&b, "  %c %v %q until %v\n", t.Hash[0], t.Scope, t.Label, t.Expires)
	}
	return b.String()
}

func (s *script) invites() string {
	var b strings.Builder
	for _, i := range s.f.Invites(parley.Invites{}).Invites {
		fmt.Fprintf(&b, "  %c uses=%d until %v\n", i.Hash[0], i.Uses, i.Expires)
	}
	return b.String()
}

// TestRevisionChanges with whatever makes a login invalid.
func TestRevisionChanges(t *testing.T) {
	f := start(t, Config{})
	l := newLogger(t, f)
	admin := &parley.Actor{Admin: true}
	for _, r := range []parley.Request{
		{Command: parley.StoreUser{Name: "ann", Verifier: "v"}},
		{As: admin, Command: parley.StorePassword{User: "ann", Verifier: "w", Was: 1 << 16}},
		{As: admin, Command: parley.AddToken{User: "ann", Token: parley.Token{Hash: parley.Hash{1}}}},
		{As: admin, Command: parley.RevokeToken{User: "ann"}},
		{As: admin, Command: parley.SetPolicy{Policy: parley.Policy{Auth: parley.AuthRequired}}},
		{As: admin, Command: parley.DeleteUser{Name: "ann"}},
	} {
		before := f.Revision()
		if res := l.do(r)[0]; res.Code != parley.CodeOK || f.Revision() == before {
			t.Errorf("%+v: %+v, revision %d as before", r, res, before)
		}
	}
	before := f.Revision()
	l.do(parley.Request{As: admin, Command: parley.CreateUser{Name: "bob"}})
	if f.Revision() != before {
		t.Error("what has nothing to do with accounts changes the revision")
	}
}

// TestLoginClone: a login that is kept has no part of the entry that it came with.
func TestLoginClone(t *testing.T) {
	l := &login{incarnation: 3, verifier: "verifier", changed: 5, tokens: []token{{label: "label", expires: 7}}}
	entry := string(l.append(nil))
	read, ok := readLogin(entry)
	if !ok || !reflect.DeepEqual(read, l) {
		t.Fatalf("%+v", read)
	}
	kept := read.clone()
	if !reflect.DeepEqual(kept, l) {
		t.Errorf("%+v", kept)
	}
	for _, s := range [][2]string{{kept.verifier, read.verifier}, {kept.tokens[0].label, read.tokens[0].label}} {
		if unsafe.StringData(s[0]) == unsafe.StringData(s[1]) {
			t.Errorf("%q keeps the entry in memory", s[0])
		}
	}
}
