package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// isMember reports whether the leader has a member of that name.
func (c *cluster) isMember(name string) bool {
	_, ok := c.leader().member(name)
	return ok
}

// third is the name of the member that neither is n nor leads.
func (c *cluster) third(n *Node) string {
	leader := c.leader().cfg.Name
	return slices.DeleteFunc(slices.Clone(c.names), func(name string) bool { return name == n.cfg.Name || name == leader })[0]
}

// Whoever is asked, the member goes for good, and its name can come back only as
// a new server.
func TestRemove(t *testing.T) {
	for _, who := range []string{"a follower", "another follower", "the leader"} {
		t.Run(who, func(t *testing.T) {
			c := newCluster(t, 3, func(cfg *Config) { cfg.HeartbeatTimeout = time.Second }) // the term must not change
			must(t, c.leader(), parley.CreateUser{Name: "anna"})
			for name, n := range c.nodes { // one without a log would not know that it was a member
				eventually(t, patience, name+" is ready", func() bool { return n.Ready() == nil })
			}
			asked, gone := c.leader(), c.follower().cfg.Name
			switch who {
			case "the leader":
				asked, gone = c.follower(), c.leader().cfg.Name
			case "another follower":
				asked = c.follower()
				gone = c.third(asked)
			}
			former := c.nodes[gone]
			if err := asked.Remove(deadline(t, patience), gone); err != nil {
				t.Fatal(err)
			}
			eventually(t, patience, "it is forgotten", func() bool {
				return former.Ready() != nil && strings.Contains(former.Ready().Error(), "removed")
			})
			c.kill(gone)
			if c.isMember(gone) {
				t.Errorf("%s is still a member", gone)
			}
			eventually(t, patience, "the table is without it", func() bool {
				return !slices.ContainsFunc(c.leader().fsm.Members(), func(m parley.Member) bool { return m.ID == gone })
			})
			must(t, c.leader(), parley.Send{To: "anna", Body: "by two"})
			r, err := c.leader().Get(deadline(t, patience), parley.Status{})
			if err != nil || len(r.Members) != 2 {
				t.Errorf("status: %+v, %v", r.Members, err)
			}
			// With its old data it has no vote and no leader, and disturbs nobody.
			term := c.leader().raft.CurrentTerm()
			n := c.start(gone)
			if err := n.Ready(); err == nil || n.inCluster() {
				t.Errorf("started again, it says that it is a member: %v", err)
			}
			leader := c.leader(c.others(gone)...)
			must(t, leader, parley.Send{To: "anna", Body: "undisturbed"})
			if now := leader.raft.CurrentTerm(); now != term {
				t.Errorf("term %d became %d", term, now)
			}
		})
	}
}

// What would leave the cluster without a majority is refused, and changes nothing.
func TestRemoveKeepsQuorum(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.leader()
	dead := c.follower().cfg.Name
	alive := c.third(c.nodes[dead])
	refused := func(name, why string) {
		t.Helper()
		err := c.leader().Remove(deadline(t, patience), name)
		if parley.CodeOf(err) != parley.CodeBadRequest || !strings.Contains(err.Error(), why) {
			t.Errorf("removing %s: %v, want a refusal with %q", name, err, why)
		}
	}
	refused("n9", "n9")
	c.kill(dead)
	refused(alive, dead)
	refused(leader.cfg.Name, dead)
	if len(leader.servers()) != 3 {
		t.Fatalf("a refused removal changed the members: %v", leader.servers())
	}
	if err := leader.Remove(deadline(t, patience), dead); err != nil {
		t.Fatalf("removing the dead one: %v", err)
	}
	if err := leader.Remove(deadline(t, patience), alive); err != nil {
		t.Fatalf("two become one: %v", err)
	}
	c.kill(alive) // it is told of no leader any more
	refused(leader.cfg.Name, "last member")
	must(t, leader, parley.CreateUser{Name: "anna"})
}

// Who does not know yet who leads, that it leads itself for example, is no reason
// to refuse what an administrator wants.
func TestAdminWaitsForTheLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, who := range []string{"the leader", "a follower", "both"} {
		leader, asked := c.leader(), c.follower()
		if who != "a follower" {
			leader.leader.Store(&leadership{changed: make(chan struct{})})
		}
		if who != "the leader" {
			asked.leader.Store(&leadership{changed: make(chan struct{})})
		}
		if err := asked.HandOver(deadline(t, patience), asked.cfg.Name); err != nil {
			t.Errorf("%s did not know: %v", who, err)
		}
	}
}

func TestHandOver(t *testing.T) {
	c := newCluster(t, 3, nil)
	for range 2 {
		for _, name := range c.names {
			asked := c.follower()
			if err := asked.HandOver(deadline(t, patience), name); err != nil {
				t.Fatalf("to %s: %v", name, err)
			}
			eventually(t, patience, name+" leads", func() bool { return c.nodes[name].raft.State() == raft.Leader })
		}
	}
	before := c.leader().cfg.Name
	if err := c.leader().HandOver(deadline(t, patience), ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "another leads", func() bool { return c.leader().cfg.Name != before })
	if err := c.leader().HandOver(deadline(t, patience), "n9"); parley.CodeOf(err) != parley.CodeBadRequest {
		t.Errorf("to nobody: %v", err)
	}
}
