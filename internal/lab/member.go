package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/internal/check"
	"github.com/parley-chat/parley/node"
)

// Cluster is the members of one cluster, each on a host of its own, all in this
// process.
type Cluster struct {
	net      *Net
	dir      string
	names    []string
	store    node.LogStore
	log      *slog.Logger
	replicas *check.Replicas
	flushes  *flushes // nil: they cannot be watched
	trailing uint64   // as in node.Config

	mu       sync.Mutex
	members  map[string]*member
	problems []string
	left     sync.WaitGroup // processes that have been killed and are not cleaned up yet
	copies   copies
}

// member is one host.
type member struct {
	name   string
	dir    string // of the latest process
	starts int
	port   *Port      // nil: no process
	node   *node.Node // nil: no process
	join   bool       // it has lost its data once, and is told to join from then on
}

// config is that of a process on a host.
func (c *Cluster) config(m *member) node.Config {
	return node.Config{
		Name: m.name, Dir: m.dir, Members: c.names, Join: m.join, Network: m.port, LogStore: c.store, LogStageBytes: 64 << 10, // it is to get full
		ClientAddr: m.name + ":3000", PeerAddr: m.name + ":7000",
		SnapshotInterval: 2 * time.Second, TrailingLogs: c.trailing,
		Logger: c.log.With("start", m.starts),
	}
}

// member finds a host, which is there from the beginning.
func (c *Cluster) member(name string) *member {
	m := c.members[name]
	if m == nil {
		m = &member{name: name, dir: filepath.Join(c.dir, name+".0")}
		c.members[name] = m
	}
	return m
}

// Start runs a process on a host, on the data that the last one has left.
func (c *Cluster) Start(name string) error {
	c.mu.Lock()
	m := c.member(name)
	m.starts++
	port := c.net.Listen(name, c.replicas.Leads)
	m.port = port
	cfg := c.config(m)
	c.mu.Unlock()
	n, err := node.Open(context.Background(), cfg)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		port.Kill()
		m.port = nil
		return err
	}
	m.node = n
	port.Serve(n)
	return nil
}

// running are the names of those that have a process.
func (c *Cluster) running() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.names {
		if m := c.members[name]; m != nil && m.node != nil {
			names = append(names, name)
		}
	}
	return names
}

func (c *Cluster) node(name string) *node.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.members[name]; m != nil {
		return m.node
	}
	return nil
}

// leader is the member that leads, as far as any knows.
func (c *Cluster) leader() string {
	for _, name := range c.running() {
		if n := c.node(name); n != nil {
			if l, _ := n.Leadership(); l.Self {
				return name
			}
		}
	}
	return ""
}

// take ends a process's part in the cluster: its connections are closed.
func (c *Cluster) take(name string) (m *member, n *node.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m = c.members[name]
	n = m.node
	if n == nil {
		return m, nil
	}
	m.port.Kill()
	m.port, m.node = nil, nil
	return m, n
}

// Crash ends a process as kill -9 does: at one moment it is cut off and its
// directory is copied as it is. What it goes on to do to the original, nobody
// will see. tell says that the others notice.
func (c *Cluster) Crash(name string, tell bool) {
	c.awaitWrite(name)
	m, n := c.take(name)
	if n == nil {
		return
	}
	now, err := c.copies.take(m.dir)
	c.abandon(m, n, now, err, tell)
}

// PowerLoss ends machines at one moment, soon, and if they write, right at a
// flush: nothing that they have just sent arrives, and of what they have written
// there is what they had flushed, and any part of the rest. It reports false where
// flushes cannot be watched.
func (c *Cluster) PowerLoss(rng *rand.Rand, tell bool, names ...string) bool {
	var ports []*Port
	for _, name := range names {
		ports = append(ports, c.net.port(name))
	}
	disks := c.look(rng, names, &outage{dark: func() {
		for _, p := range ports {
			p.dark.Store(true)
		}
	}})
	if disks == nil {
		return false
	}
	if rng.IntN(3) == 0 { // a checkpoint is under way
		for _, name := range names {
			n := c.node(name)
			c.left.Go(func() { n.Digest() })
		}
	}
	for i := 0; i < 100 && !disks[0].over(); i++ {
		time.Sleep(time.Duration(rng.Int64N(int64(4 * time.Millisecond))))
	}
	c.flushes.finish(disks...)
	for i, name := range names {
		m, n := c.take(name)
		c.copies.note("as a loss of power leaves it", disks[i].lost)
		c.abandon(m, n, disks[i].after, disks[i].err, tell)
	}
	return true
}

// DiskError lets one of a member's next flushes fail, and all after it. The member
// must end itself then; what is left of its data is what a loss of power would have
// left. ended, after a while, says whether that has happened.
func (c *Cluster) DiskError(rng *rand.Rand, tell bool, name string) (ended func() bool) {
	disks := c.look(rng, []string{name}, &outage{refuse: syscall.EIO})
	if disks == nil {
		return nil
	}
	d, n := disks[0], c.node(name)
	enough, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-n.Done():
		case <-enough:
			if d.over() && !within(noticesWithin, func() bool { return n.Err() != nil }) {
				c.problem("%s goes on although its disk has failed", name)
			}
		}
		c.flushes.finish(d)
		if n.Err() == nil {
			return
		}
		m, _ := c.take(name)
		c.copies.note("as a failed disk leaves it", d.lost)
		c.abandon(m, n, d.after, d.err, tell)
	}()
	return func() bool {
		close(enough)
		<-gone
		return c.node(name) == nil
	}
}

// noticesWithin is how soon a process must end whose disk has failed.
const noticesWithin = 10 * time.Second

// look begins to look at the disks of members, if that is possible.
func (c *Cluster) look(rng *rand.Rand, names []string, what *outage) (disks []*disk) {
	if c.flushes == nil {
		return nil
	}
	what.left = rng.IntN(12)
	for _, name := range names {
		disks = append(disks, &disk{
			dir: c.dirOf(name) + string(filepath.Separator), outage: what, rng: rand.New(rand.NewPCG(rng.Uint64(), 0)),
		})
	}
	synctest.Wait() // nobody writes now
	if err := c.flushes.look(disks...); err != nil {
		c.problem("reading the data of %v: %v", names, err)
		return nil
	}
	return disks
}

// abandon leaves a process to itself and its host with an image of its data.
func (c *Cluster) abandon(m *member, n *node.Node, now image, err error, tell bool) {
	to, old := filepath.Join(c.dir, fmt.Sprintf("%s.%d", m.name, m.starts)), m.dir
	if err == nil {
		err = now.write(to)
	}
	if err != nil {
		c.problem("copying the data of %s: %v", m.name, err)
	}
	m.dir = to
	if tell {
		c.tellCrash(m.name)
	}
	failed := n.Err() != nil // with a reason
	c.left.Go(func() { c.end(n, m.name, old, failed) })
}

// awaitWrite waits until a member is about to write, as far as its messages tell,
// or for a moment if it has nothing to do.
func (c *Cluster) awaitWrite(name string) {
	c.mu.Lock()
	m := c.members[name]
	var writes <-chan struct{}
	if m.port != nil {
		writes = m.port.nextWrite()
	}
	c.mu.Unlock()
	t := time.NewTimer(20 * time.Millisecond)
	defer t.Stop()
	select {
	case <-writes:
	case <-t.C:
	}
}

// tellCrash tells the others that a process has died.
func (c *Cluster) tellCrash(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.port != nil && m.name != name {
			m.port.TellCrash(name)
		}
	}
}

// end shuts down a process that nobody hears any more, so that its goroutines end.
func (c *Cluster) end(n *node.Node, name, dir string, failed bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// What has failed cannot always write its last checkpoint either; but it ends.
	if err := n.Shutdown(ctx); err != nil && (!failed || ctx.Err() != nil) {
		c.problem("%s: what is left of it does not end: %v", name, err)
	}
	if !failed {
		c.failed(name, n)
	}
	if err := os.RemoveAll(dir); err != nil {
		c.problem("%v", err)
	}
}

// failed looks whether a process has ended itself, for which there is no reason.
func (c *Cluster) failed(name string, n *node.Node) {
	if err := n.Err(); err != nil {
		c.problem("%s has ended itself: %v", name, err)
	}
}

// Stop ends a process in good order.
func (c *Cluster) Stop(name string) {
	c.mu.Lock()
	m := c.members[name]
	n := m.node
	m.node = nil
	c.mu.Unlock()
	if n == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.Shutdown(ctx); err != nil {
		c.problem("stopping %s: %v", name, err)
	}
	c.failed(name, n)
	c.mu.Lock()
	defer c.mu.Unlock()
	m.port.Kill()
	m.port = nil
}

// Wipe takes away the data of a host without a process, which is to join again.
func (c *Cluster) Wipe(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[name]
	if m.node != nil {
		return errors.New("it runs")
	}
	m.join = true
	return os.RemoveAll(m.dir)
}

// Close ends all processes and waits for what is left of former ones.
func (c *Cluster) Close() {
	var wg sync.WaitGroup
	for _, name := range c.running() {
		wg.Go(func() { c.stopAlone(name) })
	}
	wg.Wait()
	c.left.Wait()
}

// stopAlone ends a process without a transfer of leadership.
func (c *Cluster) stopAlone(name string) {
	m, n := c.take(name)
	if n == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.Shutdown(ctx); err != nil {
		c.problem("stopping %s: %v", m.name, err)
	}
	c.failed(name, n)
}

func (c *Cluster) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// Problems describes what should not have happened, in words.
func (c *Cluster) Problems() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.problems)
}

// compare notes the state of a member.
func (c *Cluster) compare(name string) (index uint64, sum string, err error) {
	n := c.node(name)
	if n == nil {
		return 0, "", errors.New("it does not run")
	}
	index, sum, err = n.Digest()
	if err == nil {
		c.replicas.State(name, index, sum)
	}
	return index, sum, err
}

// dirOf is where the data of a host are.
func (c *Cluster) dirOf(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[name].dir
}
