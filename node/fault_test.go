package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// others are the names of the running members but one.
func (c *cluster) others(name string) (names []string) {
	for _, other := range c.names {
		if other != name && c.nodes[other] != nil {
			names = append(names, other)
		}
	}
	return names
}

// load keeps sending numbered messages through sessions on all members, and
// reads on all members that must not miss what was acknowledged before.
type load struct {
	t       *testing.T
	stop    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
	acked   []atomic.Int64 // by sender: numbers acknowledged so far
	reads   atomic.Int64
	senders int
}

func startLoad(t *testing.T, nodes []*Node) *load {
	l := &load{t: t, stop: make(chan struct{}), senders: len(nodes), acked: make([]atomic.Int64, len(nodes))}
	t.Cleanup(l.halt)
	for i, n := range nodes {
		l.wg.Go(func() { l.send(i, n) })
		l.wg.Go(func() { l.read(n) })
	}
	return l
}

func (l *load) send(sender int, n *Node) {
	s := parley.NewSession(n)
	for k := int64(1); ; k++ {
		select {
		case <-l.stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		r, err := s.Do(ctx, parley.Send{From: fmt.Sprint(sender), To: "box", Body: fmt.Sprint(k)})
		cancel()
		if err != nil || r.Code != parley.CodeOK {
			l.t.Errorf("sender %d, message %d: %v %v", sender, k, r.Err(), err)
			return
		}
		l.acked[sender].Store(k)
	}
}

func (l *load) total() (sum int64) {
	for i := range l.acked {
		sum += l.acked[i].Load()
	}
	return sum
}

// read checks that what was acknowledged before a read is in its result.
func (l *load) read(n *Node) {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		before := l.total()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		r, err := n.Get(ctx, parley.Inbox{User: "box", Limit: -1})
		cancel()
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		l.reads.Add(1)
		if int64(r.Unread) < before {
			l.t.Errorf("stale read on %s: %d messages, %d were acknowledged before", n.cfg.Name, r.Unread, before)
			return
		}
	}
}

func (l *load) halt() {
	l.once.Do(func() { close(l.stop) })
	l.wg.Wait()
}

// end stops the load and checks that all is there, once and in order.
func (l *load) end(n *Node) {
	l.t.Helper()
	l.halt()
	next := make([]int64, l.senders)
	for _, m := range inbox(l.t, n, "box") {
		var sender int
		var k int64
		fmt.Sscan(m.From, &sender)
		fmt.Sscan(m.Body, &k)
		if next[sender]++; k != next[sender] {
			l.t.Fatalf("sender %d: message %d where %d was due", sender, k, next[sender])
		}
	}
	for i := range next {
		if acked := l.acked[i].Load(); next[i] != acked {
			l.t.Errorf("sender %d: %d messages, %d acknowledged", i, next[i], acked)
		}
	}
	l.t.Logf("%d messages, %d reads", l.total(), l.reads.Load())
	if l.total() == 0 || l.reads.Load() == 0 {
		l.t.Error("the load did nothing")
	}
}

func (c *cluster) all() (nodes []*Node) {
	for _, name := range c.names {
		if c.nodes[name] != nil {
			nodes = append(nodes, c.nodes[name])
		}
	}
	return nodes
}

func TestIsolatedLeaders(t *testing.T) { forStores(t, isolatedLeaders) }

func isolatedLeaders(t *testing.T, on func(*Config)) {
	c := newCluster(t, 3, on)
	must(t, c.leader(), parley.CreateUser{Name: "box"})
	l := startLoad(t, c.all())
	for range 4 {
		old := c.leader().cfg.Name
		c.f.isolate(old, true)
		before := l.total()
		c.leader(c.others(old)...)
		eventually(t, patience, "messages through the new leader", func() bool { return l.total() > before+20 })
		c.f.isolate(old, false)
		c.leader()
	}
	l.end(c.leader())
	c.sameDigest()
}

// sameDigest waits until all members have the same state.
func (c *cluster) sameDigest() {
	c.t.Helper()
	var seen string
	eventually(c.t, patience, "the same digest everywhere", func() bool {
		sums := make(map[string]bool)
		seen = ""
		for _, n := range c.all() {
			index, sum, err := n.Digest()
			if err != nil {
				c.t.Fatal(err)
			}
			seen += fmt.Sprintf("%s: %d %s\n", n.cfg.Name, index, sum)
			sums[fmt.Sprint(index, sum)] = true
		}
		return len(sums) == 1
	})
}

func TestHandedOverUnderLoad(t *testing.T) {
	c := newCluster(t, 3, nil)
	must(t, c.leader(), parley.CreateUser{Name: "box"})
	l := startLoad(t, c.all())
	for range 5 {
		leader := c.leader()
		before := l.total()
		if err := leader.Transfer(deadline(t, patience)); err != nil {
			t.Error(err)
		}
		eventually(t, patience, "messages through the new leader", func() bool { return l.total() > before+20 })
	}
	l.end(c.leader())
	c.sameDigest()
}

func TestMinorityLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	old := c.leader()
	must(t, old, parley.CreateUser{Name: "anna"})
	c.f.isolate(old.cfg.Name, true)

	done := make(chan error, 1) // as the old leader, it still takes it
	old.Start(context.Background(), parley.Request{Command: parley.CreateUser{Name: "ghost"}}, func(r parley.Result, err error) {
		if err == nil {
			err = fmt.Errorf("acknowledged: %+v", r)
		}
		done <- err
	})
	if r, err := old.Get(deadline(t, patience), parley.Inbox{User: "anna"}); err == nil {
		t.Errorf("a leader that nobody has confirmed answered: %+v", r)
	}
	now := c.leader(c.others(old.cfg.Name)...)
	must(t, now, parley.DeleteUser{Name: "anna"})
	if r, err := old.Get(deadline(t, time.Second), parley.Inbox{User: "anna"}); err == nil {
		t.Errorf("stale read: %+v", r)
	}
	var e *parley.Error
	if err := <-done; !errors.As(err, &e) {
		t.Errorf("a minority's leader: %v", err)
	}
	if _, err := parley.Do(deadline(t, time.Second), old, parley.Request{Command: parley.CreateUser{Name: "ghost2"}}); !errors.As(err, &e) || !e.Code.NotApplied() {
		t.Errorf("write without a quorum: %v", err)
	}
	for _, err := range old.Watch(deadline(t, time.Second), "anna", parley.Cursor{}) {
		if parley.CodeOf(err) != parley.CodeNoQuorum {
			t.Errorf("watch without a quorum: %v", err)
		}
		break
	}
	c.f.isolate(old.cfg.Name, false)
	c.leader()
	if r, err := old.Get(deadline(t, patience), parley.Users{}); err != nil || len(r.Names) != 0 {
		t.Errorf("users after it has healed: %v %v", r.Names, err)
	}
}

func TestOneOfThreeLeft(t *testing.T) {
	c := newCluster(t, 3, nil)
	must(t, c.leader(), parley.CreateUser{Name: "anna"})
	c.announced()
	last := c.leader()
	names := c.others(last.cfg.Name)
	for _, name := range names {
		c.kill(name)
	}
	eventually(t, patience, "a refusal", func() bool {
		_, err := parley.Do(deadline(t, patience), last, parley.Request{Command: parley.CreateUser{Name: "bert"}})
		return parley.CodeOf(err) == parley.CodeNotLeader && strings.Contains(err.Error(), "no quorum")
	})
	if last.Ready() == nil {
		t.Error("ready without a quorum")
	}
	s, err := last.Get(deadline(t, patience), parley.Status{})
	if err != nil || len(s.Members) != 3 {
		t.Fatalf("status: %+v %v", s, err)
	}
	for _, m := range s.Members {
		if m.Reachable != (m.ID == last.cfg.Name) || m.Client != m.ID+":3000" {
			t.Errorf("status of %s: %+v", m.ID, m)
		}
	}
	c.start(names[0])
	must(t, c.leader(), parley.CreateUser{Name: "carl"}) // bert may exist by now
	for _, n := range c.all() {
		if err := n.Ready(); err != nil {
			t.Errorf("%s with one of three down: %v", n.cfg.Name, err)
		}
	}
	s, err = last.Get(deadline(t, patience), parley.Status{})
	leaders := 0
	for _, m := range s.Members {
		if m.Role == parley.RoleLeader {
			leaders++
		}
	}
	if err != nil || leaders != 1 {
		t.Errorf("status: %+v %v", s, err)
	}
}

func TestRestartKeepsAll(t *testing.T) { forStores(t, restartKeepsAll) }

func restartKeepsAll(t *testing.T, on func(*Config)) {
	c := newCluster(t, 3, on)
	must(t, c.leader(), parley.CreateUser{Name: "anna"})
	for i := range 20 {
		must(t, c.leader(), parley.Send{To: "anna", Body: fmt.Sprint(i)})
	}
	for i, end := range []func(string){c.kill, c.stop} {
		for _, name := range c.names {
			end(name)
		}
		for _, name := range c.names {
			c.start(name)
		}
		mail := inbox(t, c.leader(), "anna")
		if len(mail) != 20 || mail[19].Body != "19" {
			t.Fatalf("restart %d: %d messages", i, len(mail))
		}
	}
	c.sameDigest()
}

// A follower that returns is sent what it lacks at once, not after Raft's
// back-off, which by then is ten seconds: the other one may die in that time.
func TestRestartThenKill(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 12 s")
	}
	c := newCluster(t, 3, nil)
	a := c.leader()
	others := c.others(a.cfg.Name)
	must(t, a, parley.CreateUser{Name: "anna"})
	c.kill(others[0])
	for range 11 {
		must(t, a, parley.Send{To: "anna", Body: "x"})
		time.Sleep(time.Second) // the back-off grows
	}
	c.start(others[0])
	c.kill(others[1])
	begin := time.Now()
	ctx := deadline(t, 5*time.Second)
	if r, err := parley.NewSession(a).Do(ctx, parley.Send{To: "anna", Body: "y"}); err != nil || r.Code != parley.CodeOK {
		t.Fatalf("no commit within 5 s: %v %v", r, err)
	}
	t.Log("commits resumed after", time.Since(begin))
}

func TestCrashStartsElectionAtOnce(t *testing.T) {
	// With a heartbeat of seconds, only the hint can have done it.
	c := newCluster(t, 3, func(cfg *Config) { cfg.HeartbeatTimeout = 3 * time.Second })
	eventually(t, 30*time.Second, "a leader", func() bool { return c.nodes["n1"].Ready() == nil })
	old := c.leader().cfg.Name
	must(t, c.leader(), parley.CreateUser{Name: "anna"})
	c.f.tellCrash(c.others(old)[0]) // not the leader: means nothing
	c.f.isolate(old, true)
	begin := time.Now()
	c.f.tellCrash(old)
	s := parley.NewSession(c.nodes[c.others(old)[0]])
	if r, err := s.Do(deadline(t, patience), parley.Send{To: "anna", Body: "x"}); err != nil || r.Code != parley.CodeOK {
		t.Fatal(r, err)
	}
	if gap := time.Since(begin); gap > 2*time.Second {
		t.Errorf("the gap was %v", gap)
	} else {
		t.Log("gap", gap)
	}
	c.f.isolate(old, false)
}

func TestTransferGap(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.HeartbeatTimeout = time.Second })
	leader := c.leader()
	must(t, leader, parley.CreateUser{Name: "anna"})
	c.announced()
	s := parley.NewSession(leader)
	var worst time.Duration
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			begin := time.Now()
			if r, err := s.Do(context.Background(), parley.Send{To: "anna", Body: "x"}); err != nil || r.Code != parley.CodeOK {
				t.Errorf("send: %v %v", r, err)
				return
			}
			worst = max(worst, time.Since(begin))
		}
	})
	if err := leader.Transfer(deadline(t, patience)); err != nil {
		t.Error(err)
	}
	if l, _ := leader.Leadership(); l.Self || l.ID == "" {
		t.Errorf("after the transfer the leader is %+v", l)
	}
	close(stop)
	wg.Wait()
	t.Log("worst wait across the transfer:", worst)
	if worst > 2*time.Second {
		t.Errorf("a command waited %v", worst)
	}
}

// Whoever has the longest log stands first, wherever it is in the configuration.
func TestCrashLongestLogFirst(t *testing.T) {
	for behind := range 2 {
		t.Run(fmt.Sprint("other ", behind), func(t *testing.T) {
			c := newCluster(t, 3, func(cfg *Config) { cfg.HeartbeatTimeout = 4 * time.Second })
			old := c.leader()
			others := c.others(old.cfg.Name)
			must(t, old, parley.CreateUser{Name: "anna"})
			c.f.isolate(others[behind], true)
			must(t, old, parley.Send{To: "anna", Body: "x"})
			c.f.isolate(old.cfg.Name, true) // first, else it would send what is missing
			c.f.heal(others[behind], others[1-behind])
			if a, b := c.nodes[others[behind]].raft.LastIndex(), c.nodes[others[1-behind]].raft.LastIndex(); a >= b {
				t.Fatalf("log up to %d, the other one's up to %d: nobody has the longest", a, b)
			}
			begin := time.Now()
			c.f.tellCrash(old.cfg.Name)
			s := parley.NewSession(c.nodes[others[behind]])
			if r, err := s.Do(deadline(t, patience), parley.Send{To: "anna", Body: "y"}); err != nil || r.Code != parley.CodeOK {
				t.Fatal(r, err)
			}
			if gap := time.Since(begin); gap > 1500*time.Millisecond {
				t.Errorf("the gap was %v", gap)
			}
			c.f.isolate(old.cfg.Name, false)
		})
	}
}

// A member that stood for election at once met the winner of its term, which then
// was lost. It must forget it, or it will never let anybody else be elected.
func TestLostWinnerIsForgotten(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.HeartbeatTimeout = 2 * time.Second })
	winner := c.leader()
	others := c.others(winner.cfg.Name)
	behind, ahead := c.nodes[others[0]], c.nodes[others[1]]
	must(t, winner, parley.CreateUser{Name: "anna"})
	c.sameDigest()
	term := behind.raft.CurrentTerm()
	c.f.isolate(others[0], true)
	behind.stand() // before its heartbeat time-out
	eventually(t, patience, "a candidate in a term of its own", func() bool { return behind.raft.CurrentTerm() > term })
	h := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(winner.server), Addr: []byte(winner.cfg.Name)}
	behind.link.Inject(&raft.AppendEntriesRequest{RPCHeader: h, Term: behind.raft.CurrentTerm()}, behind.quit)
	eventually(t, patience, "a leader of this candidate", func() bool {
		addr, _ := behind.raft.LeaderWithID()
		return string(addr) == winner.cfg.Name
	})
	if state := behind.raft.State(); state != raft.Candidate {
		t.Fatalf("it is a %v: nothing is tested", state)
	}
	must(t, winner, parley.Send{To: "anna", Body: "x"}) // so that behind cannot be elected
	c.f.isolate(winner.cfg.Name, true)
	c.f.heal(others[0], others[1])
	if leader := c.leader(others...); leader != ahead {
		t.Errorf("%s leads", leader.cfg.Name)
	}
	must(t, behind, parley.Send{To: "anna", Body: "y"})
	c.f.isolate(winner.cfg.Name, false)
}
