package store

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// A follower refuses entries now and then. With its pipelines, which are the
// library's default, a leader may never send it an entry again, although heartbeats
// go on (hashicorp/raft #612); that is a matter of chance. Without them, as
// transport/peer has it, it always does.
func TestRefusedEntries(t *testing.T) {
	if n := refusals(t, 1, 60); n != 60 {
		t.Errorf("without pipelines, nothing was replicated after %d refusals", n)
	}
	if testing.Short() {
		return
	}
	const most = 120
	if n := refusals(t, raft.DefaultMaxRPCsInFlight, most); n < most {
		t.Logf("the library's default has stalled after %d refusals", n)
	} else {
		t.Logf("the library's default has not stalled in %d refusals this time", most)
	}
}

// refusals runs a leader whose follower refuses entries so many times, and returns
// after how many of them replication stood still, or most.
func refusals(t *testing.T, inFlight, most int) int {
	t.Helper()
	listen := func() *raft.NetworkTransport {
		trans, err := raft.NewTCPTransportWithConfig("127.0.0.1:0", nil, &raft.NetworkTransportConfig{
			MaxPool: 3, MaxRPCsInFlight: inFlight, Timeout: time.Minute, Logger: hclog.NewNullLogger(),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { trans.Close() })
		return trans
	}
	f := &refuser{trans: listen()}
	stop := make(chan struct{})
	defer close(stop)
	go f.serve(stop)

	c := raft.DefaultConfig()
	c.LocalID, c.Logger, c.CommitTimeout = "leader", hclog.NewNullLogger(), time.Millisecond
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = time.Second, time.Second, time.Second
	trans, memory := listen(), raft.NewInmemStore()
	r, err := raft.NewRaft(c, nothing{}, memory, memory, raft.NewInmemSnapshotStore(), trans)
	if err != nil {
		t.Fatal(err)
	}
	err = r.BootstrapCluster(raft.Configuration{Servers: []raft.Server{
		{ID: "leader", Address: trans.LocalAddr()}, {ID: "follower", Address: f.trans.LocalAddr()},
	}}).Error()
	if err != nil {
		t.Fatal(err)
	}
	for n := range most {
		f.refuse.Store(true)
		before, beats := f.taken.Load(), f.beats.Load()
		for deadline := time.Now().Add(time.Minute); f.taken.Load() < before+3 || f.refuse.Load(); time.Sleep(time.Millisecond) {
			r.Apply([]byte("x"), time.Second) // what becomes of it does not matter
			if inFlight > 1 && n > 0 && f.beats.Load() > beats+20 {
				return n // and what is stuck cannot be shut down
			}
			if time.Now().After(deadline) {
				return n
			}
		}
	}
	if err := r.Shutdown().Error(); err != nil {
		t.Error(err)
	}
	return most
}

// refuser is a follower without a log, which takes what it gets but for one message
// when it is told so.
type refuser struct {
	trans        *raft.NetworkTransport
	refuse       atomic.Bool
	taken, beats atomic.Int64
}

func (f *refuser) serve(stop <-chan struct{}) {
	for {
		var rpc raft.RPC
		select {
		case rpc = <-f.trans.Consumer():
		case <-stop:
			return
		}
		switch c := rpc.Command.(type) {
		case *raft.RequestPreVoteRequest:
			rpc.Respond(&raft.RequestPreVoteResponse{Term: c.Term, Granted: true}, nil)
		case *raft.RequestVoteRequest:
			rpc.Respond(&raft.RequestVoteResponse{Term: c.Term, Granted: true}, nil)
		case *raft.AppendEntriesRequest:
			heartbeat := c.PrevLogEntry == 0 && len(c.Entries) == 0 && c.LeaderCommitIndex == 0
			ok := heartbeat || !f.refuse.CompareAndSwap(true, false)
			switch {
			case heartbeat:
				f.beats.Add(1)
			case ok:
				f.taken.Add(1)
			}
			rpc.Respond(&raft.AppendEntriesResponse{Term: c.Term, Success: ok, LastLog: c.PrevLogEntry, NoRetryBackoff: true}, nil)
		}
	}
}
