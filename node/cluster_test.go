package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// cluster is some members in one process.
type cluster struct {
	t     testing.TB
	f     *fabric
	dir   string
	names []string
	nodes map[string]*Node // those that run
	tune  func(*Config)
}

const patience = time.Minute // for what takes milliseconds on an idle machine

func newCluster(t testing.TB, size int, tune func(*Config)) *cluster {
	c := &cluster{t: t, f: newFabric(), dir: t.TempDir(), nodes: make(map[string]*Node), tune: tune}
	for i := range size {
		c.names = append(c.names, fmt.Sprintf("n%d", i+1))
	}
	t.Cleanup(c.stopAll)
	for _, name := range c.names {
		c.start(name)
	}
	return c
}

// forStores runs a test on each log store.
func forStores(t *testing.T, test func(t *testing.T, on func(*Config))) {
	for _, kind := range []LogStore{LogBolt, LogWAL} {
		t.Run(string(kind), func(t *testing.T) { test(t, func(cfg *Config) { cfg.LogStore = kind }) })
	}
}

func (c *cluster) config(name string) Config {
	cfg := Config{
		Name: name, Dir: filepath.Join(c.dir, name), Members: c.names, Network: c.f.port(name),
		ClientAddr: name + ":3000", PeerAddr: name + ":7000",
		LogStore: LogStore(os.Getenv("PARLEY_TEST_LOG_STORE")), // all these tests on the other store; those where it matters most run on both anyway
	}
	if os.Getenv("PARLEY_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if c.tune != nil {
		c.tune(&cfg)
	}
	return cfg
}

func (c *cluster) start(name string, tune ...func(*Config)) *Node {
	c.t.Helper()
	cfg := c.config(name)
	for _, f := range tune {
		f(&cfg)
	}
	n, err := Open(context.Background(), cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[name] = n
	c.f.setNode(name, n)
	return n
}

// stop ends a member in an orderly way.
func (c *cluster) stop(name string) {
	c.t.Helper()
	n := c.nodes[name]
	delete(c.nodes, name)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Shutdown(ctx); err != nil {
		c.t.Errorf("stopping %s: %v", name, err)
	}
	c.f.setNode(name, nil)
	if err := n.Err(); err != nil {
		c.t.Errorf("%s failed: %v", name, err)
	}
}

// kill ends a member without a word to the others.
func (c *cluster) kill(name string) {
	c.t.Helper()
	n := c.nodes[name]
	delete(c.nodes, name)
	c.f.setNode(name, nil)
	n.link.Refuse()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.stop(ctx); err != nil {
		c.t.Errorf("killing %s: %v", name, err)
	}
}

func (c *cluster) stopAll() {
	for name := range c.nodes {
		n := c.nodes[name]
		c.f.isolate(name, false)
		if n.Err() != nil {
			c.t.Logf("%s had failed: %v", name, n.Err())
		}
	}
	for _, name := range c.names {
		if c.nodes[name] != nil {
			c.kill(name)
		}
	}
}

// leader waits until all running and connected members agree on a leader among
// them that serves.
func (c *cluster) leader(among ...string) *Node {
	c.t.Helper()
	if len(among) == 0 {
		for name := range c.nodes {
			among = append(among, name)
		}
	}
	var leader *Node
	eventually(c.t, patience, "a leader", func() bool {
		leader = nil
		for _, name := range among {
			l, _ := c.nodes[name].Leadership()
			if c.nodes[l.ID] == nil || leader != nil && leader != c.nodes[l.ID] || l.Client == "" {
				return false
			}
			leader = c.nodes[l.ID]
		}
		return leader != nil && leader.leader.Load().Self && leader.Ready() == nil
	})
	return leader
}

// follower returns a member that does not lead.
func (c *cluster) follower() *Node {
	c.t.Helper()
	leader := c.leader()
	for _, name := range c.names {
		if n := c.nodes[name]; n != nil && n != leader {
			return n
		}
	}
	c.t.Fatal("no follower")
	return nil
}

func deadline(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// must runs a command in a session and wants it done.
func must(t testing.TB, s parley.Service, c parley.Command) parley.Result {
	t.Helper()
	r, err := parley.NewSession(s).Do(deadline(t, patience), c)
	if err != nil || r.Code != parley.CodeOK {
		t.Fatalf("%T: %v %v", c, r.Err(), err)
	}
	return r
}

// announced waits until all members have the whole table.
func (c *cluster) announced() {
	c.t.Helper()
	eventually(c.t, patience, "the table on all members", func() bool {
		for _, n := range c.all() {
			if len(n.fsm.Members()) != len(c.names) {
				return false
			}
		}
		return true
	})
}

// inbox reads all of a mailbox.
func inbox(t *testing.T, s parley.Service, user string) []parley.Message {
	t.Helper()
	var all []parley.Message
	q := parley.Inbox{User: user}
	ctx := deadline(t, patience)
	for {
		r, err := s.Get(ctx, q)
		if err != nil && parley.CodeOf(err).Retryable() && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond) // between two polls: another may lead by now
			continue
		}
		if err != nil || r.Code != parley.CodeOK {
			t.Fatalf("inbox of %s: %v %v", user, r.Err(), err)
		}
		all = append(all, r.Messages...)
		if !r.More {
			return all
		}
		q.After = r.Messages[len(r.Messages)-1].Cursor
	}
}
