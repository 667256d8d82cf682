package fsm

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// server is a Raft server over an FSM, with what outlives its restarts.
type server struct {
	t     *testing.T
	id    raft.ServerID
	dir   string
	store *raft.InmemStore
	trans *raft.InmemTransport
	f     *FSM
	raft  *raft.Raft
}

func newServer(t *testing.T, id string) *server {
	s := &server{t: t, id: raft.ServerID(id), dir: t.TempDir(), store: raft.NewInmemStore()}
	t.Cleanup(s.stop)
	return s
}

func (s *server) config() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = s.id
	c.Logger = hclog.NewNullLogger()
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 500*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond
	c.CommitTimeout = 5 * time.Millisecond
	c.NoSnapshotRestoreOnStart = true
	c.SnapshotInterval, c.SnapshotThreshold, c.TrailingLogs = time.Hour, 1<<30, 0
	return c
}

func (s *server) start() {
	s.t.Helper()
	var err error
	s.f, err = Open(Config{Dir: s.dir, MapBytes: 64 << 20, Fatal: func(err error) { s.t.Error(err) }})
	if err != nil {
		s.t.Fatal(err)
	}
	_, s.trans = raft.NewInmemTransport(raft.ServerAddress(s.id))
	s.raft, err = raft.NewRaft(s.config(), s.f, s.store, s.store, s.f.Snapshots(), s.trans)
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) stop() {
	s.t.Helper()
	if s.raft == nil {
		return
	}
	if err := s.raft.Shutdown().Error(); err != nil {
		s.t.Error(err)
	}
	s.trans.DisconnectAll()
	if err := s.f.Close(); err != nil {
		s.t.Error(err)
	}
	s.raft = nil
}

func connect(servers ...*server) {
	for _, a := range servers {
		for _, b := range servers {
			a.trans.Connect(b.trans.LocalAddr(), b.trans)
		}
	}
}

// eventually polls a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("timed out: " + what)
		}
	}
}

func leaderOf(t *testing.T, servers ...*server) (leader *server) {
	t.Helper()
	eventually(t, "leader", func() bool {
		for _, s := range servers {
			if s.raft.State() == raft.Leader {
				leader = s
			}
		}
		return leader != nil
	})
	return leader
}

func (s *server) must(f raft.Future) {
	s.t.Helper()
	if err := f.Error(); err != nil {
		s.t.Fatal(err)
	}
}

// cmd runs a command through Raft.
func (s *server) cmd(c parley.Command) parley.Result {
	s.t.Helper()
	var b Batch
	b.Add(parley.Request{Command: c})
	f := s.raft.Apply(b.Encode(epoch), 5*time.Second)
	s.must(f)
	r, ok := f.Response().([]parley.Result)
	if !ok {
		s.t.Fatalf("response %v", f.Response())
	}
	return r[0]
}

// same waits until the servers have applied the same and compares them.
func same(t *testing.T, servers ...*server) {
	t.Helper()
	want := mustDigest(t, servers[0].f)
	for _, s := range servers[1:] {
		if err := s.f.WaitApplied(t.Context(), servers[0].f.Applied()); err != nil {
			t.Fatal(err)
		}
		if got := mustDigest(t, s.f); got != want {
			t.Errorf("%s:\n%s\n%s:\n%s", servers[0].id, dump(t, servers[0].f), s.id, dump(t, s.f))
		}
	}
}

// cluster starts three servers with a user and a message.
func cluster(t *testing.T) []*server {
	t.Helper()
	s := []*server{newServer(t, "n1"), newServer(t, "n2"), newServer(t, "n3")}
	var conf raft.Configuration
	for _, s := range s {
		s.start()
		conf.Servers = append(conf.Servers, raft.Server{ID: s.id, Address: s.trans.LocalAddr()})
	}
	connect(s...)
	s[0].must(s[0].raft.BootstrapCluster(conf))
	l := leaderOf(t, s...)
	l.cmd(parley.CreateUser{Name: "bob"})
	l.cmd(parley.Send{From: "ann", To: "bob", Body: "before"})
	return s
}

// TestRaftInstall: a server that has missed what the log does not hold any more
// gets the checkpoint; so does a new one. Both survive a restart.
func TestRaftInstall(t *testing.T) {
	s := cluster(t)
	l := leaderOf(t, s...)
	var lagging *server
	for _, x := range s {
		if x != l {
			lagging = x
		}
	}
	if err := lagging.f.WaitApplied(t.Context(), l.f.Applied()); err != nil {
		t.Fatal(err)
	}
	lagging.stop()
	for i := range 50 {
		l.cmd(parley.Send{From: "ann", To: "bob", Body: fmt.Sprint(i)})
	}
	l.must(l.raft.Barrier(0)) // the FSM does not see it
	l.must(l.raft.Snapshot()) // which truncates the log up to the barrier
	if first, err := l.store.FirstIndex(); err != nil || first != 0 {
		t.Fatalf("the log is not empty: it begins at %d (%v)", first, err)
	}
	l.cmd(parley.Send{From: "ann", To: "bob", Body: "after"})

	resets := make(chan Event, 100)
	lagging.start()
	lagging.f.cfg.OnEvents = func(e []Event) { resets <- e[0] }
	connect(s...)
	same(t, l, lagging)
	if e := <-resets; e.Kind != EventReset {
		t.Errorf("event %v, want reset", e)
	}
	lagging.stop()
	lagging.start()
	connect(s...)
	same(t, l, lagging)

	fresh := newServer(t, "n4")
	fresh.start()
	connect(append(s, fresh)...)
	l = leaderOf(t, s...)
	l.must(l.raft.AddVoter("n4", fresh.trans.LocalAddr(), 0, 0))
	l.must(l.raft.Barrier(0))
	same(t, l, fresh)
}

// TestRaftRestart: every server goes on from its own checkpoint, with the log
// truncated right up to it and the configuration known from it alone.
func TestRaftRestart(t *testing.T) {
	s := cluster(t)
	for round := range 3 {
		l := leaderOf(t, s...)
		l.cmd(parley.Send{From: "ann", To: "bob", Body: fmt.Sprint(round)})
		l.must(l.raft.Barrier(0))
		same(t, l, s[0], s[1], s[2])
		want := dump(t, l.f)
		for _, x := range s {
			eventually(t, "the barrier, which the FSM does not see", func() bool { return x.raft.AppliedIndex() == l.raft.LastIndex() })
			x.must(x.raft.Snapshot())
			list, err := x.f.Snapshots().List()
			if err != nil || len(list) != 1 || list[0].Index != x.raft.AppliedIndex() || len(list[0].Configuration.Servers) != 3 || list[0].Term == 0 {
				t.Fatalf("%s: %+v %v", x.id, list, err)
			}
		}
		for _, x := range s {
			x.stop()
		}
		for _, x := range s {
			x.start()
		}
		connect(s...)
		for _, x := range s {
			if got := dump(t, x.f); got != want {
				t.Errorf("%s after restart %d:\n%s\nwant\n%s", x.id, round, got, want)
			}
			f := x.raft.GetConfiguration()
			x.must(f)
			if n := len(f.Configuration().Servers); n != 3 {
				t.Errorf("%s: %d servers in the configuration", x.id, n)
			}
		}
		l = leaderOf(t, s...)
		l.cmd(parley.Send{From: "ann", To: "bob", Body: "again"})
		same(t, l, s[0], s[1], s[2])
	}
}

// TestRaftUserRestore: an operator brings back an older snapshot, which becomes
// the newest state of all servers.
func TestRaftUserRestore(t *testing.T) {
	s := cluster(t)
	l := leaderOf(t, s...)
	want := dump(t, l.f)
	f := l.raft.Snapshot()
	l.must(f)
	meta, r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	backup, err := io.ReadAll(r)
	if err != nil || int64(len(backup)) != meta.Size {
		t.Fatal(len(backup), meta.Size, err)
	}
	r.Close()
	l.cmd(parley.DeleteUser{Name: "bob"})
	l.cmd(parley.CreateUser{Name: "eve"})
	at := l.f.Applied()
	if err := l.raft.Restore(meta, newChunks(backup), 0); err != nil {
		t.Fatal(err)
	}
	same(t, l, s[0], s[1], s[2])
	if got := dump(t, l.f); got != want {
		t.Errorf("restored:\n%s\nwant\n%s", got, want)
	}
	if l.f.Applied() <= at {
		t.Errorf("applied %d, was %d before", l.f.Applied(), at)
	}
	for _, x := range s {
		x.stop()
	}
	for _, x := range s {
		x.start()
	}
	connect(s...)
	l = leaderOf(t, s...)
	l.cmd(parley.Send{From: "ann", To: "bob", Body: "after"})
	same(t, l, s[0], s[1], s[2])
}

// TestRaftRecoverCluster: the configuration that an operator forces after the
// loss of a majority is in the checkpoint.
func TestRaftRecoverCluster(t *testing.T) {
	s := cluster(t)
	l := leaderOf(t, s...)
	want := dump(t, l.f)
	for _, x := range s {
		x.stop()
	}
	f, err := Open(Config{Dir: l.dir, MapBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(l.id))
	conf := raft.Configuration{Servers: []raft.Server{{ID: l.id, Address: raft.ServerAddress(l.id)}}}
	if err := raft.RecoverCluster(l.config(), f, l.store, l.store, f.Snapshots(), trans, conf); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	l.start()
	leaderOf(t, l)
	if got := dump(t, l.f); got != want {
		t.Errorf("recovered:\n%s\nwant\n%s", got, want)
	}
	l.cmd(parley.Send{From: "ann", To: "bob", Body: "after"})
}

// TestRaftUnderLoad snapshots and restarts while commands flow.
func TestRaftUnderLoad(t *testing.T) {
	s := cluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	sent := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			for _, x := range s[:2] {
				var b Batch
				b.Add(parley.Request{Command: parley.Send{From: "ann", To: "bob", Body: fmt.Sprint(n)}})
				b.Add(parley.Request{Command: parley.Ack{User: "bob", UpTo: parley.Cursor{ID: parley.MessageID(n / 2)}}})
				if err := x.raft.Apply(b.Encode(epoch), 0).Error(); err != nil && err != raft.ErrNotLeader && err != raft.ErrLeadershipLost {
					t.Error(err)
				}
			}
		}
		sent <- n
	}()
	for range 5 {
		at := s[0].f.Applied() + 300
		eventually(t, "progress", func() bool { return s[0].f.Applied() >= at })
		s[2].stop()
		for _, x := range s[:2] {
			x.must(x.raft.Snapshot())
		}
		s[2].start()
		connect(s...)
	}
	cancel()
	if n := <-sent; n == 0 {
		t.Error("nothing was sent")
	}
	l := leaderOf(t, s...)
	l.cmd(parley.CreateUser{Name: "end"})
	same(t, l, s[0], s[1], s[2])
}

// chunks reads a snapshot in pieces of odd sizes.
type chunks struct {
	data []byte
	n    int
}

func newChunks(data []byte) *chunks { return &chunks{data, 1} }

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	c.n = c.n%40_000*3 + 1
	n := copy(p[:min(len(p), c.n)], c.data)
	c.data = c.data[n:]
	return n, nil
}
