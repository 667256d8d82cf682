package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// A snapshot that comes late, when its successor has been installed and more has
// been stored, changes nothing: Raft would empty the log, and forget what this
// member has acknowledged.
func TestLateSnapshot(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.HeartbeatTimeout = time.Second }) // the leader must not change
	leader := c.leader()
	must(t, leader, parley.CreateUser{Name: "box"})
	if err := leader.fsm.Checkpoint(deadline(t, patience)); err != nil {
		t.Fatal(err)
	}
	snapshots, err := leader.fsm.Snapshots().List()
	if err != nil || len(snapshots) != 1 {
		t.Fatalf("%v %v", snapshots, err)
	}
	f := c.follower()
	send := func() raft.InstallSnapshotResponse {
		t.Helper()
		meta, r, err := leader.fsm.Snapshots().Open(snapshots[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		req := raft.InstallSnapshotRequest{
			RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.server), Addr: []byte(leader.cfg.Name)},
			SnapshotVersion: meta.Version, Term: leader.raft.CurrentTerm(), LastLogIndex: meta.Index, LastLogTerm: meta.Term,
			Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex, Size: meta.Size,
		}
		var resp raft.InstallSnapshotResponse
		if err := leader.link.InstallSnapshot(f.server, raft.ServerAddress(f.cfg.Name), &req, &resp, r); err != nil {
			t.Log(err)
		}
		return resp
	}
	must(t, leader, parley.Send{To: "box", Body: "after the snapshot"})
	c.sameDigest()
	first, err := f.store.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	if resp := send(); !resp.Success {
		t.Error("the leader is not told that the snapshot is not needed, and sends it again for ever")
	}
	f.link.SetApplied(func() uint64 { return 0 }) // it was not applied yet when it arrived
	if resp := send(); resp.Success {
		t.Error("Raft went back to a snapshot")
	}
	if now, err := f.store.FirstIndex(); err != nil || now != first {
		t.Fatalf("the log began at %d and now at %d: %v", first, now, err)
	}
	must(t, leader, parley.Send{To: "box", Body: "and more"})
	c.sameDigest()
	c.kill(f.cfg.Name)
	c.start(f.cfg.Name)
	c.sameDigest()
}

// A node that is started more often than its log grows truncates it all the same.
func TestTruncateAtStart(t *testing.T) {
	c := newCluster(t, 1, nil)
	for i := range 50 {
		must(t, c.leader(), parley.CreateUser{Name: fmt.Sprint("u", i)})
	}
	c.stop("n1")
	n := newNode(c.config("n1").withDefaults())
	n.cfg.TrailingLogs = 10 // less than Config allows
	if err := n.open(t.Context()); err != nil {
		n.abandon()
		t.Fatal(err)
	}
	c.nodes["n1"] = n
	c.f.setNode("n1", n)
	if first, err := n.store.FirstIndex(); err != nil || first < 40 {
		t.Errorf("the log begins at %d: %v", first, err)
	}
	if r, err := c.leader().Get(deadline(t, patience), parley.Users{}); err != nil || len(r.Names) != 50 {
		t.Errorf("%d users: %v", len(r.Names), err)
	}
}
