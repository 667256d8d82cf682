package link

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley/node/internal/store"
)

// pair is two connected links; b answers what arrives with serve.
type pair struct {
	a, b   *Transport
	ia, ib *raft.InmemTransport
}

func newPair(t *testing.T, serve func(raft.RPC)) *pair {
	p := &pair{}
	_, p.ia = raft.NewInmemTransportWithTimeout("a", time.Second)
	_, p.ib = raft.NewInmemTransportWithTimeout("b", time.Second)
	p.ia.Connect("b", p.ib)
	p.ib.Connect("a", p.ia)
	var err error
	if p.a, err = New(config(p.ia, "server-a")); err != nil {
		t.Fatal(err)
	}
	if p.b, err = New(config(p.ib, "server-b")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case rpc := <-p.b.Consumer():
				serve(rpc)
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
		p.a.Close()
		p.b.Close()
	})
	return p
}

func config(inner raft.Transport, server raft.ServerID) Config {
	return Config{Inner: inner, Server: server, OnInstall: func(raft.ServerID) {}, OnRefusal: func() {}, Logger: slog.New(slog.DiscardHandler)}
}

func head() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte("server-a"), Addr: []byte("a")}
}

// ok answers what Raft would.
func ok(rpc raft.RPC) {
	switch c := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		rpc.Respond(&raft.AppendEntriesResponse{Term: c.Term, Success: true}, nil)
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{Granted: true}, nil)
	case *raft.InstallSnapshotRequest:
		io.Copy(io.Discard, rpc.Reader)
		rpc.Respond(&raft.InstallSnapshotResponse{Success: true}, nil)
	case *raft.TimeoutNowRequest:
		rpc.Respond(&raft.TimeoutNowResponse{}, nil)
	}
}

// Every kind of message reaches the server that it is for, with the header that
// was sent, and no other.
func TestOnlyTheServerMeant(t *testing.T) {
	var got atomic.Int64
	p := newPair(t, func(rpc raft.RPC) {
		if h := header(rpc.Command); string(h.Addr) != "a" {
			t.Errorf("%T came with address %q", rpc.Command, h.Addr)
		}
		got.Add(1)
		ok(rpc)
	})
	send := map[string]func(to raft.ServerID) error{
		"heartbeat": func(to raft.ServerID) error {
			return p.a.AppendEntries(to, "b", &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1}, new(raft.AppendEntriesResponse))
		},
		"entries": func(to raft.ServerID) error {
			return p.a.AppendEntries(to, "b", &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1, PrevLogEntry: 1}, new(raft.AppendEntriesResponse))
		},
		"pipeline": func(to raft.ServerID) error {
			pipe, err := p.a.AppendEntriesPipeline(to, "b")
			if err != nil {
				return err
			}
			defer pipe.Close()
			if _, err := pipe.AppendEntries(&raft.AppendEntriesRequest{RPCHeader: head(), Term: 1}, new(raft.AppendEntriesResponse)); err != nil {
				return err
			}
			return (<-pipe.Consumer()).Error()
		},
		"vote": func(to raft.ServerID) error {
			return p.a.RequestVote(to, "b", &raft.RequestVoteRequest{RPCHeader: head()}, new(raft.RequestVoteResponse))
		},
		"pre-vote": func(to raft.ServerID) error {
			return p.a.RequestPreVote(to, "b", &raft.RequestPreVoteRequest{RPCHeader: head()}, new(raft.RequestPreVoteResponse))
		},
		"snapshot": func(to raft.ServerID) error {
			return p.a.InstallSnapshot(to, "b", &raft.InstallSnapshotRequest{RPCHeader: head(), Size: 3}, new(raft.InstallSnapshotResponse), strings.NewReader("abc"))
		},
		"timeout now": func(to raft.ServerID) error {
			return p.a.TimeoutNow(to, "b", &raft.TimeoutNowRequest{RPCHeader: head()}, new(raft.TimeoutNowResponse))
		},
	}
	for name, f := range send {
		t.Run(name, func(t *testing.T) {
			got.Store(0)
			if err := f("server-b"); err != nil || got.Load() != 1 {
				t.Errorf("to the right server: %v, arrived %d times", err, got.Load())
			}
			if err := f("server-c"); !errors.Is(err, errServer) || got.Load() != 1 {
				t.Errorf("to a server that is gone: %v, arrived %d times", err, got.Load())
			}
			p.a.refused.Store(true)
			if err := f("server-b"); !errors.Is(err, errRefused) || got.Load() != 1 {
				t.Errorf("after Refuse: %v", err)
			}
			p.a.refused.Store(false)
		})
	}
}

func TestRefuseTurnsAwayArrivals(t *testing.T) {
	p := newPair(t, ok)
	p.b.Refuse()
	err := p.a.RequestVote("server-b", "b", &raft.RequestVoteRequest{RPCHeader: head()}, new(raft.RequestVoteResponse))
	if !errors.Is(err, errRefused) {
		t.Errorf("a vote was answered: %v", err)
	}
}

func TestDamagedEntryIsRefused(t *testing.T) {
	arrived := make(chan int, 4)
	p := newPair(t, func(rpc raft.RPC) {
		arrived <- len(rpc.Command.(*raft.AppendEntriesRequest).Entries)
		ok(rpc)
	})
	s, err := store.Open(store.Config{Path: filepath.Join(t.TempDir(), "raft.db"), Fresh: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	entry := &raft.Log{Index: 1, Term: 1, Data: []byte("a text")}
	l, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.StoreLog(entry); err != nil { // gives it its checksum
		t.Fatal(err)
	}
	send := func(e raft.Log) error {
		req := &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1, Entries: []*raft.Log{&e}}
		return p.a.AppendEntries("server-b", "b", req, new(raft.AppendEntriesResponse))
	}
	if err := send(*entry); err != nil || <-arrived != 1 {
		t.Errorf("a good entry: %v", err)
	}
	for _, damage := range []func(e *raft.Log){
		func(e *raft.Log) { e.Data = []byte("a tixt") },
		func(e *raft.Log) { e.Index++ },
		func(e *raft.Log) { e.Term++ },
		func(e *raft.Log) { e.Type++ },
		func(e *raft.Log) { e.Extensions = bytes.Clone(e.Extensions); e.Extensions[3]++ },
		func(e *raft.Log) { e.Extensions = e.Extensions[:2] },
	} {
		bad := *entry
		damage(&bad)
		if err := send(bad); err == nil || len(arrived) != 0 {
			t.Errorf("a damaged entry was taken: %+v %v", bad, err)
		}
	}
}

func TestHeartbeatsTakeTheCommonWay(t *testing.T) {
	p := newPair(t, ok)
	p.a.SetHeartbeatHandler(func(raft.RPC) { t.Error("called") })
	p.b.SetHeartbeatHandler(func(raft.RPC) { t.Error("called") })
	if err := p.a.AppendEntries("server-b", "b", &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1}, new(raft.AppendEntriesResponse)); err != nil {
		t.Error(err)
	}
}

// Entries for a server that cannot be reached are delivered as soon as it
// answers a heartbeat again, and dropped once they are not wanted any more.
func TestEntriesWaitForTheServer(t *testing.T) {
	p := newPair(t, ok)
	var wanted atomic.Bool
	wanted.Store(true)
	p.a.SetWanted(func(term uint64, id raft.ServerID) bool { return wanted.Load() && term == 1 && id == "server-b" })
	entries := func() chan error {
		done := make(chan error, 1)
		go func() {
			done <- p.a.AppendEntries("server-b", "b", &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1, PrevLogEntry: 1}, new(raft.AppendEntriesResponse))
		}()
		return done
	}
	heartbeat := func() error {
		return p.a.AppendEntries("server-b", "b", &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1}, new(raft.AppendEntriesResponse))
	}
	p.ia.Disconnect("b")
	if err := heartbeat(); err == nil {
		t.Error("a heartbeat did not fail")
	}
	done := entries()
	select {
	case err := <-done:
		t.Fatalf("entries ended while the server was away: %v", err)
	case <-time.After(2 * retryEvery):
	}
	p.ia.Connect("b", p.ib)
	if err := heartbeat(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("entries: %v", err)
	}
	p.ia.Disconnect("b")
	done = entries()
	wanted.Store(false)
	if err := <-done; err == nil {
		t.Error("entries that are not wanted any more were delivered")
	}
}

// A former leader's last message may have what it has got from its successor: that
// is not taken from it.
func TestNewerThanItsLeader(t *testing.T) {
	arrived := make(chan any, 4)
	p := newPair(t, func(rpc raft.RPC) {
		arrived <- rpc.Command
		ok(rpc)
	})
	entries := func(terms ...uint64) error {
		req := &raft.AppendEntriesRequest{RPCHeader: head(), Term: 3, PrevLogEntry: 1}
		for i, term := range terms {
			req.Entries = append(req.Entries, &raft.Log{Index: uint64(2 + i), Term: term})
		}
		return p.a.AppendEntries("server-b", "b", req, new(raft.AppendEntriesResponse))
	}
	snapshot := func(last uint64) error {
		req := &raft.InstallSnapshotRequest{RPCHeader: head(), Term: 3, LastLogTerm: last}
		return p.a.InstallSnapshot("server-b", "b", req, new(raft.InstallSnapshotResponse), strings.NewReader(""))
	}
	for what, err := range map[string]error{"entries": entries(2, 3), "a snapshot": snapshot(3)} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		<-arrived
	}
	for what, err := range map[string]error{"entries": entries(3, 4), "a snapshot": snapshot(4)} {
		if !errors.Is(err, errDeposed) || len(arrived) != 0 {
			t.Errorf("%s of a newer term were taken: %v", what, err)
		}
	}
}

// Entries whose answer does not come in time are sent again, for the same server.
func TestAnswerTooLate(t *testing.T) {
	var came atomic.Int64
	p := newPair(t, func(rpc raft.RPC) {
		if came.Add(1) > 1 {
			ok(rpc)
		}
	})
	begun := time.Now()
	p.a.SetWanted(func(uint64, raft.ServerID) bool { return time.Since(begun) < time.Minute })
	var resp raft.AppendEntriesResponse
	err := p.a.AppendEntries("server-b", "b", &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1, PrevLogEntry: 1}, &resp)
	if err != nil || !resp.Success || came.Load() != 2 {
		t.Errorf("%+v after %d messages: %v", resp, came.Load(), err)
	}
}

// While Raft is busy, heartbeats of the leader that it follows are answered, and
// no others.
func TestHeartbeatsWhileRaftIsBusy(t *testing.T) {
	busy, release := make(chan struct{}), make(chan struct{})
	var taken atomic.Int64
	p := newPair(t, func(rpc raft.RPC) {
		if taken.Add(1) == 1 {
			close(busy)
			<-release
		}
		ok(rpc)
	})
	p.b.SetFollowing(func(term uint64, leader raft.ServerID) bool { return term == 7 && leader == "server-a" })
	send := func(term, index uint64) error {
		req := &raft.AppendEntriesRequest{RPCHeader: head(), Term: term, PrevLogEntry: index}
		var resp raft.AppendEntriesResponse
		err := p.a.AppendEntries("server-b", "b", req, &resp)
		if err == nil && (resp.Term != term || !resp.Success) {
			t.Errorf("answer %+v in term %d", resp, term)
		}
		return err
	}
	entries, other := make(chan error, 1), make(chan error, 1)
	go func() { entries <- send(7, 1) }()
	<-busy
	for range 3 {
		if err := send(7, 0); err != nil {
			t.Errorf("heartbeat while Raft is busy: %v", err)
		}
	}
	go func() { other <- send(8, 0) }()
	select {
	case err := <-other:
		t.Errorf("a heartbeat of another term was answered without Raft: %v", err)
	case <-time.After(3 * heartbeatPatience):
	}
	if n := taken.Load(); n != 1 {
		t.Errorf("Raft got %d messages", n)
	}
	close(release)
	if err := <-entries; err != nil {
		t.Error(err)
	}
	if err := <-other; err != nil {
		t.Error(err)
	}
}

func TestInject(t *testing.T) {
	got := make(chan any, 1)
	p := newPair(t, func(rpc raft.RPC) {
		got <- rpc.Command
		ok(rpc)
	})
	p.b.Inject(&raft.TimeoutNowRequest{}, nil)
	if _, is := (<-got).(*raft.TimeoutNowRequest); !is {
		t.Error("something else arrived")
	}
	stop := make(chan struct{})
	close(stop)
	p.a.Inject(&raft.TimeoutNowRequest{}, stop) // nobody takes it
}

// Followers are told of no commit index that this server has not on disk itself,
// by either way of sending entries.
func TestCommitIndexIsBounded(t *testing.T) {
	got := make(chan uint64, 1)
	p := newPair(t, func(rpc raft.RPC) {
		got <- rpc.Command.(*raft.AppendEntriesRequest).LeaderCommitIndex
		ok(rpc)
	})
	p.a.SetDurable(func(commit uint64) uint64 { return min(commit, 7) })
	pipe, err := p.a.AppendEntriesPipeline("server-b", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	for _, commit := range []uint64{5, 9} {
		req := &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1, PrevLogEntry: 3, PrevLogTerm: 1, LeaderCommitIndex: commit}
		if err := p.a.AppendEntries("server-b", "b", req, new(raft.AppendEntriesResponse)); err != nil {
			t.Fatal(err)
		}
		single := <-got
		if _, err := pipe.AppendEntries(req, new(raft.AppendEntriesResponse)); err != nil {
			t.Fatal(err)
		}
		if piped := <-got; single != min(commit, 7) || piped != single {
			t.Errorf("commit index %d: told %d, and %d in the pipeline", commit, single, piped)
		}
		<-pipe.Consumer()
		if req.LeaderCommitIndex != commit {
			t.Error("Raft's own message was changed")
		}
	}
}

// A vote that is refused is told, one that is granted is not; the candidate hears
// of both.
func TestRefusalIsTold(t *testing.T) {
	told := make(chan struct{}, 8)
	grant := true
	_, ia := raft.NewInmemTransportWithTimeout("a", time.Second)
	_, ib := raft.NewInmemTransportWithTimeout("b", time.Second)
	ia.Connect("b", ib)
	a, err := New(config(ia, "server-a"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	cfg := config(ib, "server-b")
	cfg.OnRefusal = func() { told <- struct{}{} }
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, grant = range []bool{true, false, true, false} {
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			rpc := <-b.Consumer()
			rpc.Respond(&raft.RequestVoteResponse{Granted: grant}, nil)
		}()
		var resp raft.RequestVoteResponse
		if err := a.RequestVote("server-b", "b", &raft.RequestVoteRequest{RPCHeader: head()}, &resp); err != nil || resp.Granted != grant {
			t.Errorf("granted %v, want %v: %v", resp.Granted, grant, err)
		}
		<-answered
		if !grant {
			<-told
		}
	}
	if len(told) != 0 {
		t.Error("a granted vote was told as a refusal")
	}
}
