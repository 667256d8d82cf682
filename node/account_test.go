package node

import (
	"context"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/account"
)

// TestLoginOfFormerUser: what somebody is logged in with at one member ends with
// the user, although it was deleted and created again through another member that
// the first may not have heard of yet.
func TestLoginOfFormerUser(t *testing.T) {
	c := newCluster(t, 3, nil)
	here, there := account.New(account.Config{Cluster: c.follower()}), account.New(account.Config{Cluster: c.leader()})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	do := func(svc parley.Service, cmd parley.Command) parley.Result {
		t.Helper()
		for {
			r, err := parley.Do(ctx, svc, parley.Request{Command: cmd})
			if err == nil {
				return r
			}
			if !parley.CodeOf(err).NotApplied() || ctx.Err() != nil {
				t.Fatalf("%T: %v", cmd, err)
			}
		}
	}
	const password = "ann's password"
	for _, name := range []string{"ann", "bob"} {
		if r := do(there.Admin(), parley.CreateUser{Name: name, Password: password}); r.Code != parley.CodeOK {
			t.Fatalf("%+v", r)
		}
	}
	do(there.Admin(), parley.SetPolicy{Policy: parley.Policy{Auth: parley.AuthRequired}})
	login := func(g *account.Guard) parley.Service {
		t.Helper()
		svc, _, err := g.Login(ctx, parley.Credentials{User: "ann", Password: password})
		if err != nil {
			t.Fatal(err)
		}
		return svc
	}
	ann := login(here) // this member may have to ask for what it does not know yet
	if r := do(ann, parley.Send{To: "bob", Body: "one"}); r.Code != parley.CodeOK {
		t.Fatalf("%+v", r)
	}
	for range 5 {
		do(there.Admin(), parley.DeleteUser{Name: "ann"})
		do(there.Admin(), parley.CreateUser{Name: "ann", Password: password})
		for _, cmd := range []parley.Command{
			parley.Send{To: "bob", Body: "from beyond"}, parley.Ack{User: "ann", UpTo: parley.Cursor{ID: 1}}, parley.DeleteUser{Name: "ann"},
			parley.AddToken{User: "ann", Token: parley.Token{Hash: parley.Hash{1}}},
		} {
			if r := do(ann, cmd); r.Code != parley.CodeUnauthenticated {
				t.Errorf("%T by the former ann: %+v", cmd, r)
			}
		}
		if r, err := ann.Get(ctx, parley.Inbox{User: "ann"}); err == nil && r.Code == parley.CodeOK {
			t.Errorf("the former ann reads the mail of the new one: %+v", r)
		}
		ann = login(here)
		if r := do(ann, parley.Send{To: "bob", Body: "from the new one"}); r.Code != parley.CodeOK {
			t.Errorf("the new ann: %+v", r)
		}
	}
}
