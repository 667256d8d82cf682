package node

import (
	"testing"

	"github.com/parley-chat/parley"
)

func TestBasics(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader, follower := c.leader(), c.follower()
	for i, s := range []parley.Service{leader, follower} {
		user := []string{"anna", "bert"}[i]
		must(t, s, parley.CreateUser{Name: user})
		must(t, s, parley.Send{From: "x", To: user, Body: "hello, you"})
		for _, read := range []parley.Service{leader, follower} {
			if m := inbox(t, read, user); len(m) != 1 || m[0].Body != "hello, you" {
				t.Errorf("inbox of %s: %+v", user, m)
			}
		}
		must(t, s, parley.Ack{User: user, UpTo: parley.Cursor{ID: 1}})
		if m := inbox(t, leader, user); len(m) != 0 {
			t.Errorf("inbox of %s after the ack: %+v", user, m)
		}
	}
	r, err := follower.Get(deadline(t, patience), parley.Users{})
	if err != nil || len(r.Names) != 2 {
		t.Errorf("users: %v %v", r.Names, err)
	}
}
