package client

import (
	"context"
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/account"
)

// guarded makes the servers of a cluster ask for logins.
func (c *cluster) guarded() *account.Guard {
	g := account.New(account.Config{Cluster: c.fake})
	for _, n := range c.nodes {
		n.svc, n.login = g.Anybody(), g.Login
	}
	return g
}

// TestLogsInAgain after each failover, and goes on with its session and watch.
func TestLogsInAgain(t *testing.T) {
	cl := newCluster(t, 3)
	g := cl.guarded()
	cl.fake.SetMembers(cl.members())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, c := range []parley.Command{
		parley.CreateUser{Name: "ann", Password: "ann's password"},
		parley.SetPolicy{Policy: parley.Policy{Auth: parley.AuthRequired}},
	} {
		if r, err := parley.Do(ctx, g.Admin(), parley.Request{Command: c}); err != nil || r.Code != parley.CodeOK {
			t.Fatalf("%T: %+v, %v", c, r, err)
		}
	}
	logins := 0
	c := open(t, Config{Servers: cl.addrs(), Credentials: func(context.Context) (parley.Credentials, error) {
		logins++
		return parley.Credentials{User: "ann", Password: "ann's password"}, nil
	}})
	s := c.Session()
	got := make(chan parley.Message, 3)
	go func() {
		for m, err := range c.Watch(ctx, "ann", parley.Cursor{}) {
			if err != nil {
				return
			}
			got <- m
		}
	}()
	for i := range 3 {
		r, err := s.Do(ctx, parley.Send{From: "somebody", To: "ann", Body: "x"})
		if err != nil || r.Code != parley.CodeOK {
			t.Fatalf("message %d: %+v, %v", i, r, err)
		}
		if m := <-got; m.From != "ann" || m.ID != parley.MessageID(i+1) {
			t.Errorf("%+v", m)
		}
		if i < 2 {
			cl.lead(i + 1)
			cl.nodes[i].kill()
		}
	}
	if logins < 3 {
		t.Errorf("%d logins", logins)
	}
}

// TestLoginRefused: everything ends with the reason, and nothing is sent in
// nobody's name.
func TestLoginRefused(t *testing.T) {
	cl := newCluster(t, 1)
	cl.guarded() // open: nobody's name would do
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := open(t, Config{Servers: cl.addrs(), Credentials: Static(parley.Credentials{User: "ann", Password: "wrong"})})
	if r, err := c.Get(ctx, parley.Users{}); err != nil || r.Code != parley.CodeUnauthenticated {
		t.Errorf("query: %+v, %v", r, err)
	}
	if _, err := c.Session().Do(ctx, parley.CreateUser{Name: "bob"}); parley.CodeOf(err) != parley.CodeUnauthenticated {
		t.Errorf("command: %v", err)
	}
	for _, err := range c.Watch(ctx, "ann", parley.Cursor{Incarnation: 1}) {
		if parley.CodeOf(err) != parley.CodeUnauthenticated {
			t.Errorf("watch: %v", err)
		}
	}
}
