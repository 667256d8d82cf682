package node

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// Followers learn at once what is committed, although Raft would tell them only
// much later.
func TestFollowersLearnOfCommits(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.CommitTimeout = time.Hour })
	leader := c.leader()
	must(t, leader, parley.CreateUser{Name: "anna"})
	for range 5 {
		must(t, leader, parley.Send{To: "anna", Body: "hello"})
		want := leader.fsm.Applied()
		for name, n := range c.nodes {
			eventually(t, patience, name+" has applied it", func() bool { return n.fsm.Applied() >= want })
		}
	}
}

// What does not come from the leader of this term, or is not in the log, is
// left alone.
func TestNoticesAreChecked(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.HeartbeatTimeout = time.Second }) // the leader must not change
	leader, follower := c.leader(), c.follower()
	must(t, leader, parley.CreateUser{Name: "anna"})
	term, index := follower.raft.CurrentTerm(), leader.fsm.Applied()
	eventually(t, patience, "the follower has applied it", func() bool { return follower.fsm.Applied() >= index })
	body := func(term, index uint64) []byte {
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, term), index)
	}
	var third string
	for name := range c.nodes {
		if name != leader.cfg.Name && name != follower.cfg.Name {
			third = name
		}
	}
	for name, x := range map[string]struct {
		from        string
		term, index uint64
		later       bool
	}{
		"another term":   {leader.cfg.Name, term + 1, index, true},
		"not the leader": {third, term, index + 1, true},
		"not in the log": {leader.cfg.Name, term, index + 1000, true},
		"again":          {leader.cfg.Name, term, index, false},
	} {
		reply, err := follower.handleCommitted(x.from, body(x.term, x.index))
		if err != nil || len(reply) > 0 != x.later {
			t.Errorf("%s: reply %v, %v", name, reply, err)
		}
	}
	if _, err := follower.handleCommitted(leader.cfg.Name, []byte("too short")); err == nil {
		t.Error("a short notice is no error")
	}
	if now := follower.raft.CurrentTerm(); now != term || follower.Err() != nil {
		t.Errorf("term %d, now %d: %v", term, now, follower.Err())
	}
}
