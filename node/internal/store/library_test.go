package store

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// A follower that has entries which were never committed gets a snapshot that ends
// among them. The library then takes no entries any more, since it goes on to
// compare with the last of those, which are gone if the log is monotonic and of
// another term if not; the leader sends the snapshot again, and so on for ever
// (hashicorp/raft #697). A restart ends that.
//
// Here it cannot come to that: a leader keeps the last 10,240 entries at least, so
// that more than so many would have to be uncommitted, and one that leads has four
// of them under way at most. If the snapshot ends behind all that the follower has,
// all is well.
func TestSnapshotAmongOldEntries(t *testing.T) {
	t.Run("library", func(t *testing.T) {
		memory := raft.NewInmemStore()
		f := startFollower(t, memory, memory, raft.NewInmemSnapshotStore())
		if f.install(10) {
			t.Error("the library goes on by itself: its bug has been corrected")
		}
	})
	forKinds(t, func(t *testing.T, kind Kind, path string) {
		s := open(t, kind, path, true)
		defer s.Close()
		log, err := s.Log()
		if err != nil {
			t.Fatal(err)
		}
		snapshots := raft.NewInmemSnapshotStore()
		f := startFollower(t, log, s.Stable(), snapshots)
		if f.install(10) {
			t.Error("the library goes on by itself: its bug has been corrected")
		}
		f.stop()
		s.Follows(5, 2)
		f = startFollower(t, log, s.Stable(), snapshots)
		if !f.append(2, 5, 2, 2) {
			t.Error("no entries are taken after a restart")
		}
	})
}

// The first entries after a snapshot come again, because the answer was lost. The
// library alone does not find what they follow, and it needs the snapshot again.
func TestEntriesAgainAfterSnapshot(t *testing.T) {
	memory := raft.NewInmemStore()
	f := startFollower(t, memory, memory, raft.NewInmemSnapshotStore())
	if !f.install(3) || f.append(2, 5, 2, 1) {
		t.Error("the library finds what it needs by itself: Store.Follows is not needed any more")
	}
	forKinds(t, func(t *testing.T, kind Kind, path string) {
		s := open(t, kind, path, true)
		log, err := s.Log()
		if err != nil {
			t.Fatal(err)
		}
		snapshots := raft.NewInmemSnapshotStore()
		f := startFollower(t, log, s.Stable(), snapshots)
		s.Follows(5, 2) // what the state machine says when it has been restored
		if !f.install(3) || !f.append(2, 5, 2, 1) || !f.append(2, 5, 2, 2) {
			t.Error("entries after the snapshot are not taken")
		}
		if f.append(2, 4, 2, 1) || f.append(3, 5, 1, 1) {
			t.Error("entries that follow nothing that is known are taken")
		}
		f.stop()
		s.Close()
		s = open(t, kind, path, false)
		defer s.Close()
		if err := s.Reconcile(5, 2); err != nil {
			t.Fatal(err)
		}
		if log, err = s.Log(); err != nil {
			t.Fatal(err)
		}
		f = startFollower(t, log, s.Stable(), snapshots)
		if !f.append(3, 5, 2, 2) {
			t.Error("entries after the snapshot are not taken after a restart")
		}
		if first, last := s.log.first, s.log.last; first != 6 || last != 7 {
			t.Errorf("the log is %d to %d", first, last)
		}
		if err := s.log.DeleteRange(6, 6); err != nil {
			t.Fatal(err)
		}
		if err := s.log.GetLog(5, new(raft.Log)); err != raft.ErrLogNotFound {
			t.Errorf("reading what the log does not follow any more: %v", err)
		}
	})
}

// follower is the library's, and leader the end of the test.
type follower struct {
	t      *testing.T
	raft   *raft.Raft
	addr   raft.ServerAddress
	leader *raft.InmemTransport
}

func startFollower(t *testing.T, log raft.LogStore, stable raft.StableStore, snapshots raft.SnapshotStore) *follower {
	t.Helper()
	c := raft.DefaultConfig()
	c.LocalID, c.Logger = "follower", hclog.NewNullLogger()
	c.HeartbeatTimeout, c.ElectionTimeout = time.Hour, time.Hour // it stays one
	f := &follower{t: t}
	var trans *raft.InmemTransport
	f.addr, trans = raft.NewInmemTransportWithTimeout("", time.Minute)
	_, f.leader = raft.NewInmemTransportWithTimeout("", time.Minute)
	f.leader.Connect(f.addr, trans)
	var err error
	if f.raft, err = raft.NewRaft(c, nothing{}, log, stable, snapshots, trans); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.stop)
	return f
}

func (f *follower) stop() { f.raft.Shutdown().Error() }

var head = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("leader"), Addr: []byte("leader")}

// append sends some entries and reports whether they are taken.
func (f *follower) append(term, after, afterTerm uint64, n int) bool {
	f.t.Helper()
	req := raft.AppendEntriesRequest{RPCHeader: head, Term: term, PrevLogEntry: after, PrevLogTerm: afterTerm}
	for i := range n {
		req.Entries = append(req.Entries, &raft.Log{Index: after + uint64(i) + 1, Term: term, Type: raft.LogNoop})
	}
	var resp raft.AppendEntriesResponse
	if err := f.leader.AppendEntries("follower", f.addr, &req, &resp); err != nil {
		f.t.Fatal(err)
	}
	return resp.Success
}

// install sends some entries of a leader that is deposed, and a snapshot up to
// entry 5 of the next one, three times if need be. It reports whether an entry is
// taken after it.
func (f *follower) install(old int) bool {
	t := f.t
	t.Helper()
	if !f.append(1, 0, 0, old) {
		t.Fatal("the first entries were not taken")
	}
	for range 3 {
		const state = "the state after entry 5"
		req := raft.InstallSnapshotRequest{
			RPCHeader: head, SnapshotVersion: raft.SnapshotVersionMax, Term: 2, LastLogIndex: 5, LastLogTerm: 2,
			Configuration:      raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "leader", Address: "leader"}, {ID: "follower", Address: f.addr}}}),
			ConfigurationIndex: 1, Size: int64(len(state)),
		}
		var resp raft.InstallSnapshotResponse
		if err := f.leader.InstallSnapshot("follower", f.addr, &req, &resp, strings.NewReader(state)); err != nil || !resp.Success {
			t.Fatalf("the snapshot was not installed: %v", err)
		}
		if f.append(2, 5, 2, 1) {
			return true
		}
	}
	return false
}

// nothing is a state machine without a state.
type nothing struct{}

func (nothing) Apply(*raft.Log) any                 { return nil }
func (nothing) Snapshot() (raft.FSMSnapshot, error) { return nil, raft.ErrNothingNewToSnapshot }
func (nothing) Restore(r io.ReadCloser) error {
	_, err := io.Copy(io.Discard, r)
	return err
}
