package tcp_test

import (
	"context"
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/account"
	"github.com/parley-chat/parley/mux"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport/tcp"
	"github.com/parley-chat/parley/wire"
)

// guarded is a world whose gateway has what a node gives it: a guard.
type guarded struct {
	*world
	guard *account.Guard
}

func newGuarded(t *testing.T, policy parley.Policy) *guarded {
	t.Helper()
	fake := parleytest.NewFake()
	t.Cleanup(fake.Close)
	guard := account.New(account.Config{Cluster: fake})
	w := newWorld(t, tcp.Config{Service: guard.Anybody(), Login: guard.Login})
	w.fake = fake
	g := &guarded{world: w, guard: guard}
	g.admin(parley.SetPolicy{Policy: policy})
	return g
}

// admin runs an administrator's command.
func (g *guarded) admin(c parley.Command) {
	g.Helper()
	r, err := parley.Do(g.Context(), g.guard.Admin(), parley.Request{Command: c})
	if err != nil || r.Code != parley.CodeOK {
		g.Fatalf("%T: %+v, %v", c, r, err)
	}
}

// TestClassicOpen: clients that know nothing of passwords need know nothing, and
// what others have a password for is not theirs.
func TestClassicOpen(t *testing.T) {
	w := newGuarded(t, parley.Policy{})
	w.admin(parley.CreateUser{Name: "ann", Password: "ann's password"})
	c := w.dial()
	c.ask("create", "bob", "ok")
	c.ask("create", "bob,x", "notok") // a name has no comma
	c.ask("create", "cy,sesame sesame", "notok")
	c.ask("connect", "bob,x", "notok")
	c.ask("connect", "bob", "ok")
	c.ask("send", "ann,hello", "ok")
	c.ask("connect", "ann", "notok")
	c.ask("connect", "ann,wrong", "notok")
	w.dial().ask("send", "bob,still bob", "ok")
	c.expect("string still bob")
	c.ask("delete", "ann", "notok")
	c.ask("list", "", "list ann,bob")
	c.ask("connect", "ann,ann's password", "string hello", "ok")
	c.ask("send", "bob,from ann", "ok")
	w.eventually("bob has it", func() bool { return len(w.unread("bob")) > 0 })
	c.ask("delete", "bob", "ok")
	c.ask("list", "", "list ann")
	c.ask("delete", "ann", "ok")
	c.ask("list", "", "list")
}

// TestClassicRequired: nothing but creating a user works before connect.
func TestClassicRequired(t *testing.T) {
	w := newGuarded(t, parley.Policy{Auth: parley.AuthRequired})
	c, d := w.dial(), w.dial()
	c.ask("create", "ann", "notok")
	c.ask("create", "ann,short", "notok")
	c.ask("create", "ann,a password, with commas", "ok")
	d.ask("create", "bob,bob's password", "ok")
	for _, cmd := range [][2]string{{"send", "bob,hello"}, {"list", ""}, {"connect", "ann"}, {"connect", "ann,wrong"}, {"connect", "nobody,wrong"}, {"connect", "ann,"}} {
		c.ask(cmd[0], cmd[1], "notok")
	}
	c.ask("delete", "ann", "notok")
	c.ask("connect", "ann,a password, with commas", "ok")
	d.ask("connect", "bob,bob's password", "ok")
	c.ask("send", "bob,hello", "ok")
	d.expect("string hello")
	c.ask("delete", "bob", "notok")
	c.ask("list", "", "list ann,bob")

	// The end of a login is the end of the connection's user.
	w.admin(parley.SetPassword{User: "ann", New: "another password"})
	w.eventually("the watch of ann ends", func() bool { return w.fake.Watches() == 1 })
	d.ask("send", "ann,for ann only", "ok")
	c.ask("send", "bob,not any more", "notok")
	c.ask("list", "", "notok")
	c.ask("connect", "ann,a password, with commas", "notok")
	c.ask("connect", "ann,another password", "string for ann only", "ok")
	c.ask("delete", "ann", "ok")
	c.ask("list", "", "notok")
	w.allGone("ann")
}

// allGone waits until a user is gone.
func (g *guarded) allGone(user string) {
	g.Helper()
	g.eventually(user+" is gone", func() bool {
		a, err := g.fake.Account(user)
		return err == nil && a.Key == ""
	})
}

func TestClassicInvite(t *testing.T) {
	w := newGuarded(t, parley.Policy{Auth: parley.AuthRequired, Registration: parley.RegistrationInvite})
	code, hash := parley.NewInvite()
	w.admin(parley.AddInvite{Invite: parley.Invite{Hash: hash, Uses: 1}})
	c := w.dial()
	c.ask("create", "ann,a password", "notok")
	c.ask("create", "ann,a password,parleyinvite_x", "notok")
	c.ask("create", "ann,a password, with commas,"+string(code), "ok")
	c.ask("create", "bob,a password,"+string(code), "notok")
	c.ask("connect", "ann,a password, with commas", "ok")
}

// TestFramedLogin: a login is for what is read behind it.
func TestFramedLogin(t *testing.T) {
	w := newGuarded(t, parley.Policy{Auth: parley.AuthRequired})
	w.admin(parley.CreateUser{Name: "ann", Password: "ann's password"})
	conn := w.framed(w.dial().nc, wire.ModeAny, mux.ConnConfig{})
	code := func(r parley.Result, err error) parley.Code {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r.Code
	}
	ctx, svc := t.Context(), remote{conn}
	inbox := func() parley.Code { return code(svc.Get(ctx, parley.Inbox{User: "ann"})) }
	if got := inbox(); got != parley.CodeUnauthenticated {
		t.Errorf("before: %v", got)
	}
	for name, c := range map[string]parley.Credentials{
		"wrong": {User: "ann", Password: "wrong"}, "unknown": {User: "bob", Password: "wrong"}, "none": {User: "ann"},
		"token": {Token: "parley_x"}, "nothing": {},
	} {
		if got := code(conn.Login(ctx, c)); got != parley.CodeUnauthenticated || inbox() != got {
			t.Errorf("%s: %v", name, got)
		}
	}
	r, err := conn.Login(ctx, parley.Credentials{User: "ann", Password: "ann's password"})
	if code(r, err) != parley.CodeOK || r.Incarnation == 0 {
		t.Errorf("%+v", r)
	}
	if got := inbox(); got != parley.CodeOK {
		t.Errorf("behind: %v", got)
	}
	forged := parley.Request{As: &parley.Actor{Admin: true}, Command: parley.SetPolicy{}}
	if got := code(parley.Do(ctx, svc, forged)); got != parley.CodePermissionDenied {
		t.Errorf("in an administrator's name: %v", got)
	}
	stored := parley.Request{Command: parley.StorePassword{User: "ann", Verifier: "x"}}
	if got := code(parley.Do(ctx, svc, stored)); got != parley.CodePermissionDenied {
		t.Errorf("a member's command: %v", got)
	}
}

// TestFramedNoLogin where nobody can.
func TestFramedNoLogin(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	conn := w.framed(w.dial().nc, wire.ModeAny, mux.ConnConfig{})
	if _, err := conn.Login(context.Background(), parley.Credentials{User: "ann"}); parley.CodeOf(err) != parley.CodeUnsupported {
		t.Error(err)
	}
}
