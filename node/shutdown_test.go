package node

import (
	"testing"

	"github.com/parley-chat/parley"
)

// A member to which leadership could not be handed over is asked again in the same
// term only when it has been sent entries since.
func TestHeirAfterFailedTransfer(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.leader()
	must(t, leader, parley.CreateUser{Name: "anna"})
	c.announced()
	c.sameDigest()
	heirs := func() int {
		found, _ := leader.heirs(deadline(t, patience))
		return len(found)
	}
	if n := heirs(); n != 2 {
		t.Fatalf("%d heirs of a leader with two followers", n)
	}
	other, _ := leader.heirs(deadline(t, patience))
	term, last := leader.raft.CurrentTerm(), leader.raft.LastIndex()
	leader.failedTransfers.add(term, other[0].ID, last+1)
	if n := heirs(); n != 1 {
		t.Errorf("%d heirs, one of which has failed and got nothing since", n)
	}
	must(t, leader, parley.Send{To: "anna", Body: "x"})
	must(t, leader, parley.Send{To: "anna", Body: "y"})
	eventually(t, patience, "it has got something", func() bool { return heirs() == 2 })
	leader.failedTransfers.add(term+1, other[0].ID, last+100)
	if n := heirs(); n != 2 {
		t.Errorf("%d heirs, one of which has failed in another term", n)
	}
}
