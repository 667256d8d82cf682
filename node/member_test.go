package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
)

// A member whose data is lost joins again under a new server id. Until it does,
// it must not answer for what the lost one has promised.
func TestWipedMember(t *testing.T) {
	c := newCluster(t, 3, nil)
	must(t, c.leader(), parley.CreateUser{Name: "anna"})
	must(t, c.leader(), parley.Send{To: "anna", Body: "kept"})
	wiped := c.follower().cfg.Name
	former := string(c.nodes[wiped].server)
	c.kill(wiped)
	if err := os.RemoveAll(filepath.Join(c.dir, wiped)); err != nil {
		t.Fatal(err)
	}

	n := c.start(wiped) // as if nothing had happened
	select {
	case <-n.Done():
	case <-time.After(patience):
		t.Fatal("a member without its data goes on as if it had it")
	}
	if err := n.Err(); err == nil || !strings.Contains(err.Error(), "--join") {
		t.Errorf("it ended with %v, want advice to use --join", err)
	}
	if n.raft.LastIndex() != 0 {
		t.Error("it took entries that were meant for the server that it replaces")
	}
	c.kill(wiped)

	n = c.start(wiped, func(cfg *Config) { cfg.Join = true })
	eventually(t, patience, "the new server is a voter", func() bool {
		return slices.ContainsFunc(c.leader().servers(), func(s raft.Server) bool { return s.ID == n.server && s.Suffrage == raft.Voter })
	})
	for _, s := range c.leader().servers() {
		if string(s.ID) == former {
			t.Error("the former server is still a member")
		}
	}
	if mail := inbox(t, n, "anna"); len(mail) != 1 || mail[0].Body != "kept" {
		t.Errorf("mail on the new server: %+v", mail)
	}
	c.sameDigest()
	other := c.others(wiped)
	c.kill(other[0]) // its vote counts
	must(t, c.leader(), parley.Send{To: "anna", Body: "more"})
	c.stop(wiped)
	n = c.start(wiped, func(cfg *Config) { cfg.Join = true }) // which means nothing now
	eventually(t, patience, "the member is back", func() bool { return n.Ready() == nil })
}

func TestJoinIsRefusedToAnImpostor(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.leader()
	body := []byte(`{"id":"` + c.follower().cfg.Name + `","server":"another"}`)
	_, err := leader.HandleCall(deadline(t, patience), c.follower().cfg.Name, callJoin, body)
	if parley.CodeOf(err) != parley.CodeBadRequest || !strings.Contains(err.Error(), "alive") {
		t.Errorf("joining under the name of a member that is alive: %v", err)
	}
	if _, err := leader.HandleCall(deadline(t, patience), "n9", callJoin, body); parley.CodeOf(err) != parley.CodeBadRequest {
		t.Errorf("joining under the name of somebody else: %v", err)
	}
	if _, err := leader.HandleCall(deadline(t, patience), "n9", callAnnounce, body); parley.CodeOf(err) != parley.CodeBadRequest {
		t.Errorf("announcing somebody else: %v", err)
	}
	if _, err := leader.HandleCall(deadline(t, patience), "n9", "nonsense", nil); parley.CodeOf(err) != parley.CodeUnsupported {
		t.Errorf("unknown call: %v", err)
	}
}

// The member that bootstraps waits for all, and for all to have the same list.
func TestBootstrapNeedsAll(t *testing.T) {
	c := &cluster{t: t, f: newFabric(), dir: t.TempDir(), nodes: make(map[string]*Node), names: []string{"n1", "n2", "n3"}}
	t.Cleanup(c.stopAll)
	c.start("n1")
	c.start("n2")
	for range 3 { // tries
		if len(c.nodes["n1"].servers()) != 0 {
			t.Fatal("bootstrapped without n3")
		}
		time.Sleep(bootEvery) // one try; that nothing happens can only be waited for
	}
	odd := c.start("n3", func(cfg *Config) { cfg.Members = []string{"n1", "n3"} })
	err := c.nodes["n1"].bootstrap(context.Background())
	if err == nil || !strings.Contains(err.Error(), "was told") {
		t.Errorf("bootstrap with another list on n3: %v", err)
	}
	_ = odd
	c.kill("n3")
	c.start("n3")
	c.leader()
}

func TestMembersAreAnnounced(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.leader()
	eventually(t, patience, "the table on all members", func() bool {
		for _, n := range c.all() {
			if len(n.fsm.Members()) != 3 {
				return false
			}
		}
		return true
	})
	moved := c.follower().cfg.Name
	c.stop(moved)
	c.start(moved, func(cfg *Config) { cfg.ClientAddr = "elsewhere:1" })
	eventually(t, patience, "the new address", func() bool {
		return slices.ContainsFunc(c.leader().fsm.Members(), func(m parley.Member) bool { return m.ID == moved && m.Client == "elsewhere:1" })
	})
}

// Nothing is written when nothing happens, and nothing that has been proposed
// stays to be proposed.
func TestIdleClusterWritesNothing(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.SessionIdle = time.Second })
	leader := c.leader()
	s := parley.NewSession(leader)
	if _, err := s.Do(deadline(t, patience), parley.CreateUser{Name: "anna"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the table", func() bool { return len(leader.fsm.Members()) == 3 })
	eventually(t, patience, "the session's end", func() bool {
		r, err := parley.Do(deadline(t, patience), leader, parley.Request{Session: 1, Seq: 9, Command: parley.Ack{User: "anna"}})
		return err == nil && r.Code == parley.CodeSessionExpired
	})
	last, since := leader.raft.LastIndex(), time.Now()
	eventually(t, patience, "peace", func() bool {
		if now := leader.raft.LastIndex(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 2*time.Second
	})
}

func TestFailedStart(t *testing.T) {
	f := newFabric()
	if _, err := Open(context.Background(), Config{Name: "n1", Dir: t.TempDir()}); err == nil {
		t.Error("opened without a network")
	}
	cfg := Config{Name: "n1", Dir: t.TempDir(), Network: f.port("n1")}
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), cfg); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("second node in one directory: %v", err)
	}
	eventually(t, patience, "a cluster of one", func() bool { return n.Ready() == nil })
	if err := n.Shutdown(deadline(t, patience)); err != nil {
		t.Error(err)
	}
	<-n.Done()
	if n.Err() != nil {
		t.Error(n.Err())
	}
	if _, err := parley.Do(deadline(t, time.Second), n, parley.Request{Command: parley.OpenSession{}}); parley.CodeOf(err) != parley.CodeShuttingDown {
		t.Errorf("command after the shutdown: %v", err)
	}
}

// A member without its data that has not noticed: it must not vote, nor take
// entries, in the place of the server that had the data.
func TestWipedMemberDoesNotCount(t *testing.T) {
	c := newCluster(t, 3, nil)
	must(t, c.leader(), parley.CreateUser{Name: "anna"})
	leader := c.leader()
	others := c.others(leader.cfg.Name)
	c.kill(others[0])
	if err := os.RemoveAll(filepath.Join(c.dir, others[0])); err != nil {
		t.Fatal(err)
	}
	wiped := c.start(others[0], func(cfg *Config) { cfg.Members = []string{others[0], "unknown"} })
	c.kill(others[1])
	ctx := deadline(t, 2*time.Second)
	if r, err := parley.NewSession(leader).Do(ctx, parley.Send{To: "anna", Body: "x"}); err == nil {
		t.Errorf("acknowledged with one copy of the data: %+v", r)
	}
	if last, term := wiped.raft.LastIndex(), wiped.raft.CurrentTerm(); last != 0 || term != 0 {
		t.Errorf("the wiped member is at entry %d, term %d", last, term)
	}
	c.start(others[1])
	must(t, c.leader(leader.cfg.Name, others[1]), parley.Send{To: "anna", Body: "y"})
}

// What a member warns of is told to whoever asks any of them.
func TestStatusWarns(t *testing.T) {
	c := newCluster(t, 2, func(cfg *Config) {
		if cfg.Name == "n2" {
			cfg.Warnings = func() []string { return []string{"its certificate ends soon", "so does its disk"} }
		}
	})
	c.leader()
	for _, n := range c.nodes {
		r, err := n.Get(deadline(t, patience), parley.Status{})
		if want := "n2: its certificate ends soon\nn2: so does its disk"; err != nil || r.Detail != want {
			t.Errorf("%s: %q, %v; want %q", n.cfg.Name, r.Detail, err, want)
		}
	}
}

// A session that is in use does not end because a leader's clock jumped, and one
// that is not in use ends all the same, although the state's time is far ahead of
// everybody's clock from then on.
func TestSessionsWhenClocksJump(t *testing.T) {
	const idle = 2 * time.Second
	c := newCluster(t, 3, func(cfg *Config) { cfg.SessionIdle = idle })
	do := func(r parley.Request) (parley.Result, bool) {
		result, err := parley.Do(deadline(t, patience), c.leader(), r)
		return result, err == nil // a busy machine may have another leader by now
	}
	open := func() parley.SessionID {
		for {
			if r, ok := do(parley.Request{Command: parley.OpenSession{}}); ok && r.Code == parley.CodeOK {
				return r.Session
			}
		}
	}
	jump := func(by time.Duration) {
		var b fsm.Batch
		b.AddSetMember(parley.Member{ID: "n1"})
		_ = c.leader().raft.Apply(bytes.Clone(b.Encode(time.Now().Add(by))), patience).Error()
	}
	used, seq, last := open(), uint64(1), time.Now()
	jump(time.Hour)
	for end := time.Now().Add(3 * idle); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		began := time.Now()
		switch r, ok := do(parley.Request{Session: used, Seq: seq, Command: parley.Ack{User: "nobody"}}); {
		case !ok:
		case r.Code != parley.CodeSessionExpired:
			seq, last = seq+1, began
		case time.Since(last) < idle:
			t.Fatalf("a session used %v ago has expired", time.Since(last))
		default: // a slow machine
			used, seq, last = open(), 1, time.Now()
		}
		jump(time.Duration(seq) * time.Hour)
	}
	unused := open()
	eventually(t, patience, "the end of a session that is not used", func() bool {
		time.Sleep(2 * idle) // without a change of leaders that is enough
		r, ok := do(parley.Request{Session: unused, Seq: 1, Command: parley.Ack{User: "nobody"}})
		if !ok || r.Code != parley.CodeSessionExpired {
			unused = open()
			return false
		}
		return true
	})
}
