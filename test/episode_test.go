package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/check"
	"github.com/parley-chat/parley/internal/local"
)

// How soon a cluster must be well again when nothing is wrong any more.
const (
	commitsWithin = 10 * time.Second
	healsWithin   = 30 * time.Second
)

// episode is one run of a row. A row starts the cluster and the load with start,
// lets something happen, says so with fault, makes it good, and returns. What a
// cluster must keep whatever happens is asked by judge after that.
//
// Its methods are for the row's goroutine only.
type episode struct {
	*testing.T
	outcome
	seed uint64
	rng  *rand.Rand
	dir  string

	*local.Cluster        // nil: not started
	load           *load  // mail, for its delivery; nil: none, and little to judge
	talk           *talk  // a little of everything, for its history; nil: none
	watch          *watch // who leads
	last           time.Time
	disks          map[*local.Node]*disk // of nodes that are on one that can fail

	mu     sync.Mutex
	trace  []string
	may    map[string]bool // nodes that may end by themselves
	ends   []local.Exit    // of those
	deaths []string        // of the others
}

func newEpisode(t *testing.T, seed uint64, dir string) *episode {
	return &episode{
		T: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), dir: dir, last: time.Now(),
		outcome: outcome{faults: make(map[string]int)}, may: make(map[string]bool),
	}
}

// setting is what is particular about an episode's cluster and load.
type setting struct {
	nodes   int                  // 0: 3
	args    []string             // of every node
	senders int                  // 0: 4
	boxes   int                  // mailboxes; 0: 4
	talk    bool                 // have the history checked too
	local   func(*local.Config)  // further changes
	prepare func(*local.Cluster) // before its first start
	disks   bool                 // that can lose what was not synced
	record  bool                 // all that is done to them
}

// start starts a cluster, waits until it is ready, and puts load on it.
func (e *episode) start(s setting) {
	e.Helper()
	cfg := local.Config{Binary: program, Dir: e.dir, Nodes: s.nodes, Args: s.args, OnExit: e.exited}
	if s.local != nil {
		s.local(&cfg)
	}
	c, err := local.New(e.Context(), cfg)
	if err != nil {
		e.Fatal(err)
	}
	e.Cluster = c
	if s.prepare != nil {
		s.prepare(c)
	}
	if s.disks {
		e.openDisks(s.record)
	}
	if err := c.Start(); err != nil {
		e.Fatal(err)
	}
	waitReady(e.T, c)
	if s.senders < 0 {
		return
	}
	e.watch = startWatch(c)
	senders, boxes := s.senders, s.boxes
	def(&senders, 4)
	def(&boxes, 4)
	e.load = startLoadOf(e.T, client.Config{Servers: c.Servers(), Dial: c.Dial}, "", senders, boxes)
	if s.talk {
		e.talk = startTalk(e.T, c, e.seed)
	}
	e.load.awaitAcks(200)
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// fault counts something that is about to happen, and notes it in the trace.
func (e *episode) fault(kind, format string, args ...any) {
	e.faults[kind]++
	e.note("%s: %s", kind, fmt.Sprintf(format, args...))
	e.last = time.Now()
}

// healed notes that nothing is wrong any more.
func (e *episode) healed() { e.last = time.Now() }

func (e *episode) note(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.trace = append(e.trace, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// mayEnd says that a node's process may end by itself from now on, or not.
func (e *episode) mayEnd(n *local.Node, may bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.may[n.Name] = may
}

// exited is told of the end of each process.
func (e *episode) exited(x local.Exit) {
	if x.Wanted {
		return
	}
	e.note("%s ended by itself: %v: %s", x.Node.Name, x.Err, x.Node.LastLog())
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.may[x.Node.Name] {
		e.ends = append(e.ends, x)
		return
	}
	e.deaths = append(e.deaths, fmt.Sprintf("%s ended by itself: %v: %s", x.Node.Name, x.Err, x.Node.LastLog()))
}

// awaitEnd waits until a node that may end has done so, and returns what it said.
func (e *episode) awaitEnd(n *local.Node, within time.Duration) string {
	e.Helper()
	select {
	case <-n.Exited():
	case <-time.After(within):
		e.Fatalf("%s still runs after %v", n.Name, within)
	}
	return n.LastLog()
}

// leader waits for a leader.
func (e *episode) leader() *local.Node { e.Helper(); return leader(e.T, e.Cluster) }

// follower returns a random node that does not lead.
func (e *episode) follower() *local.Node {
	e.Helper()
	rest := others(e.Cluster, e.leader())
	return rest[e.rng.IntN(len(rest))]
}

// begin starts a node.
func (e *episode) begin(n *local.Node, args ...string) {
	e.Helper()
	if err := n.Start(args...); err != nil {
		e.Fatal(err)
	}
}

// whole waits until all nodes are ready.
func (e *episode) whole() { e.Helper(); waitReady(e.T, e.Cluster) }

// caughtUp waits until all members have come as far as the leader is now.
func (e *episode) caughtUp(within time.Duration) {
	e.Helper()
	began, goal := time.Now(), uint64(0)
	for why := "no answer"; ; time.Sleep(50 * time.Millisecond) { // between polls
		ctx, cancel := context.WithTimeout(e.Context(), 2*time.Second)
		r, err := e.watch.client.Get(ctx, parley.Status{})
		cancel()
		if err == nil && goal == 0 {
			for _, m := range r.Members {
				goal = max(goal, m.Applied)
			}
		}
		if err == nil {
			why = ""
			for _, m := range r.Members {
				if !m.Reachable || m.Applied < goal {
					why = fmt.Sprintf("%s is at %d, want %d", m.ID, m.Applied, goal)
				}
			}
		}
		switch {
		case goal > 0 && why == "":
			return
		case time.Since(began) > within:
			e.Fatalf("not caught up after %v: %s", within, why)
		}
	}
}

// between is a random time.
func (e *episode) between(least, most time.Duration) time.Duration {
	return least + time.Duration(e.rng.Int64N(int64(most-least)+1))
}

// newLeader waits until another node than old leads and commits, and returns it.
func (e *episode) newLeader(old *local.Node, within time.Duration) *local.Node {
	e.Helper()
	began := time.Now()
	acked := e.load.acked.Load()
	for {
		if now := e.watch.leader(); now != "" && now != old.Name && e.load.acked.Load() > acked {
			return e.Node(now)
		}
		if time.Since(began) > within {
			e.Fatalf("%v after %s stopped leading nobody else leads and commits", within, old.Name)
		}
		time.Sleep(10 * time.Millisecond) // between polls
	}
}

// judge asks what must be true of every cluster to which nothing bad happens any
// more.
func (e *episode) judge() {
	defer e.wantNoDeaths()
	if e.load == nil {
		return
	}
	if !e.load.acksWithin(max(time.Until(e.last.Add(commitsWithin)), time.Second)) {
		e.Errorf("nothing is acknowledged %v after the last fault", commitsWithin)
	}
	if e.talk != nil {
		e.talk.finish()
	}
	e.delivery = e.load.finish()
	e.alike()
	e.watch.stop()
	e.descriptors()
	if e.talk != nil {
		j := e.talk.history.Check(20 * time.Second)
		e.operations, e.parts = e.talk.history.Len(), j.Parts
		for i, f := range j.Findings {
			e.Errorf("%v", f)
			if page, err := os.Create(filepath.Join(e.dir, fmt.Sprintf("history-%d.html", i+1))); err == nil {
				err = errors.Join(f.Draw(page), page.Close())
				if err != nil {
					e.Error(err)
				}
			}
		}
	}
	for _, p := range e.watch.replicas.Problems() {
		e.Error(p)
	}
	compared := e.watch.replicas.Compared()
	e.terms, e.compared = compared.Terms, compared.States
	if err := e.Stop(context.Background()); err != nil {
		e.Errorf("stopping in order: %v", err)
	}
}

// wantNoDeaths complains of nodes that have ended by themselves.
func (e *episode) wantNoDeaths() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range e.deaths {
		e.Error(d)
	}
}

// alike waits until all nodes have the same state at the same place in the log.
func (e *episode) alike() {
	deadline := e.last.Add(healsWithin)
	if soon := time.Now().Add(healsWithin / 2); deadline.Before(soon) {
		deadline = soon // the mail had to be read first
	}
	for {
		why := e.different()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			e.Errorf("%v after the last fault: %s", time.Since(e.last).Round(time.Second), why)
			return
		}
		time.Sleep(50 * time.Millisecond) // between polls
	}
}

func (e *episode) different() string {
	type digest struct {
		Index  uint64
		Digest string
	}
	var first digest
	for i, n := range e.Nodes() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		body, err := n.Get(ctx, "/digest")
		cancel()
		var d digest
		if err == nil {
			err = json.Unmarshal([]byte(body), &d)
		}
		if err != nil {
			return fmt.Sprintf("%s: %v", n.Name, err)
		}
		e.watch.replicas.State(n.Name, d.Index, d.Digest)
		if i == 0 {
			first = d
		}
		if d.Index != first.Index {
			return fmt.Sprintf("%s is at %d, %s at %d", e.Nodes()[0].Name, first.Index, n.Name, d.Index)
		}
	}
	return ""
}

// maxDescriptors is more than a node needs to be a member and to serve the load:
// its files, its listeners, its connections with other members and clients.
const maxDescriptors = 64

// descriptors wants the nodes to have closed what is not used any more.
func (e *episode) descriptors() {
	if runtime.GOOS != "linux" {
		return
	}
	for _, n := range e.Nodes() {
		var open []os.DirEntry
		for range 100 {
			open, _ = os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.PID()))
			if len(open) <= maxDescriptors {
				break
			}
			time.Sleep(100 * time.Millisecond) // between polls
		}
		if len(open) > maxDescriptors || len(open) == 0 {
			e.Errorf("%s has %d open descriptors, want at most %d", n.Name, len(open), maxDescriptors)
		}
	}
}

// close ends what still runs.
func (e *episode) close() {
	if e.talk != nil {
		e.talk.finish()
	}
	if e.watch != nil {
		e.watch.stop()
	}
	if e.Cluster != nil {
		e.closeDisks()
		e.Cluster.Close()
	}
}

// keep writes down what explains a failure, beside the nodes' data and logs.
func (e *episode) keep(r row) {
	e.mu.Lock()
	defer e.mu.Unlock()
	text := fmt.Sprintf("%s, seed %d: %s\nrepeat it with: make matrix ROW=%s SEED=%d\n\n%s\n", r.name, e.seed, r.happens, r.name, e.seed, strings.Join(e.trace, "\n"))
	if e.load != nil {
		text += fmt.Sprintf("\n%v\n%s\n", e.load.log.Verdict(), strings.Join(e.load.log.Problems(), "\n"))
	}
	err := os.WriteFile(filepath.Join(e.dir, "report.txt"), []byte(text), 0o600)
	if e.talk != nil {
		err = errors.Join(err, os.WriteFile(filepath.Join(e.dir, "history.txt"), []byte(strings.Join(e.talk.history.Lines(), "\n")+"\n"), 0o600))
	}
	if err != nil {
		e.Log(err)
	}
}

// watch asks the cluster all the time who leads.
type watch struct {
	client   *client.Client
	replicas *check.Replicas
	cancel   context.CancelFunc
	done     chan struct{}

	mu   sync.Mutex
	now  string // who leads
	term uint64
	top  uint64 // the highest term that a member has told of
}

func startWatch(c *local.Cluster) *watch {
	cl, err := client.New(client.Config{Servers: c.Servers(), Any: true, Dial: c.Dial})
	if err != nil {
		panic(err) // a mistake in this file
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{client: cl, replicas: check.NewReplicas(), cancel: cancel, done: make(chan struct{})}
	go w.run(ctx)
	return w
}

func (w *watch) run(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		w.ask(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// ask notes who says that it leads. A member's role and term are not of the same
// instant, so that only what it says twice counts.
func (w *watch) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := w.client.Get(ctx, parley.Status{})
	w.mu.Lock()
	defer w.mu.Unlock()
	was, term := w.now, w.term
	w.now, w.term = "", 0
	if err != nil {
		return
	}
	for _, m := range r.Members {
		w.top = max(w.top, m.Term)
		if m.Role != parley.RoleLeader || !m.Reachable {
			continue
		}
		if m.ID == was && m.Term == term {
			w.replicas.Leads(m.ID, m.Term)
		}
		w.now, w.term = m.ID, m.Term
	}
}

func (w *watch) leader() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// highest is the highest term that a member has told of.
func (w *watch) highest() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.top
}

func (w *watch) stop() {
	w.cancel()
	<-w.done
	w.client.Close()
}
