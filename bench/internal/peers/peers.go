// Package peers is the systems under comparison: how a cluster of each is started
// on this machine, and how each is used through its own client library.
//
// All are put under the load of internal/bench, the one of `parley bench`, and are
// measured by its meter. For that the peers' clients speak the vocabulary of Parley
// as far as the load needs it: send a message, read a mailbox.
package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"github.com/parley-chat/parley/internal/bench"
	"github.com/parley-chat/parley/internal/local"
)

// Info says what a system is. All is for people but ID and Ours.
type Info struct {
	ID, Name, Version string
	Settings          string // how it runs and how it is used
	Promises          string // what an acknowledged message is good for
	Missing           string // what it does not do that Parley does in its number
	Ours              bool   // Parley
}

// Peer is a system with its settings: how reports show it, and how it is run.
type Peer struct {
	Info
	binary string   // "": this program
	nodes  int      // 0: 3
	args   []string // further flags of its servers
	driver func() driver
}

// driver uses a peer through its client library.
type driver interface {
	// prepare makes what the load needs once the servers are ready.
	prepare(ctx context.Context, c *local.Cluster) error
	// leader is the name of the node that leads where messages are kept.
	leader(ctx context.Context, c *local.Cluster) (string, error)
	// healthy returns nil when every node is up and has what the others have.
	healthy(ctx context.Context, c *local.Cluster) error
	// dial makes a client with up to window commands under way. to are the nodes
	// that it may use, the best first.
	dial(to []*local.Node, window int, connected func(bool)) (bench.Client, error)
	// dialReader makes a client that reads at that node, leading or not.
	dialReader(at *local.Node) (bench.Client, error)
	close()
}

// beginner is a driver that has something to do before the servers start. It says
// which further flags they need.
type beginner interface {
	begin(dir string) ([]string, error)
}

// With is the peer with another number of nodes and further flags of its servers.
func (p Peer) With(nodes int, args ...string) Peer {
	p.nodes, p.args = nodes, append(slices.Clone(p.args), args...)
	return p
}

// Cluster is the running servers of a peer.
type Cluster struct {
	*local.Cluster
	peer   Peer
	driver driver
	dir    string
}

// Start starts a fresh cluster in a new directory below dir and waits until it is
// ready to be used.
func (p Peer) Start(ctx context.Context, dir string) (_ *Cluster, err error) {
	c := &Cluster{peer: p, driver: p.driver(), dir: filepath.Join(dir, p.ID)}
	if err := os.RemoveAll(c.dir); err != nil {
		return nil, err
	}
	args := p.args
	if b, ok := c.driver.(beginner); ok {
		more, err := b.begin(c.dir)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", p.Name, err)
		}
		args = append(slices.Clone(args), more...)
	}
	c.Cluster, err = local.New(ctx, local.Config{Binary: p.binary, Nodes: p.nodes, Dir: c.dir, Args: args, StopTimeout: 5 * time.Second})
	if err != nil {
		c.driver.close()
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the cluster was not ready within a minute"))
	defer cancel()
	err = c.Cluster.Start()
	if err == nil {
		err = c.WaitReady(ctx)
	}
	if err == nil {
		err = c.driver.prepare(ctx, c.Cluster)
	}
	if err == nil {
		err = c.WaitHealthy(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, errors.Join(err, c.Close()))
	}
	return c, nil
}

// Close kills the servers and removes their data.
func (c *Cluster) Close() error {
	c.Cluster.Close()
	c.driver.close()
	return os.RemoveAll(c.dir)
}

// PIDs are the processes of the servers.
func (c *Cluster) PIDs() []int {
	var pids []int
	for _, n := range c.Nodes() {
		pids = append(pids, n.PID())
	}
	return pids
}

// WaitHealthy waits until every node is up and has what the others have.
func (c *Cluster) WaitHealthy(ctx context.Context) error {
	return until(ctx, func(ctx context.Context) error { return c.driver.healthy(ctx, c.Cluster) })
}

// Leader is the node that leads where messages are kept.
func (c *Cluster) Leader(ctx context.Context) (n *local.Node, err error) {
	err = until(ctx, func(ctx context.Context) error {
		name, err := c.driver.leader(ctx, c.Cluster)
		if n = c.Node(name); err == nil && n == nil {
			err = fmt.Errorf("no node %q", name)
		}
		return err
	})
	return n, err
}

// Dial returns what makes clients that are connected to the leader and know no
// other node.
func (c *Cluster) Dial(ctx context.Context, window int) (bench.Dial, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	return func(connected func(bool)) (bench.Client, error) {
		return c.driver.dial([]*local.Node{leader}, window, connected)
	}, nil
}

// DialAll returns what makes clients that know all nodes, beginning with the leader.
func (c *Cluster) DialAll(ctx context.Context, window int) (bench.Dial, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	return func(connected func(bool)) (bench.Client, error) {
		return c.driver.dial(c.from(leader), window, connected)
	}, nil
}

// from returns the nodes, the given one first.
func (c *Cluster) from(first *local.Node) []*local.Node {
	nodes := []*local.Node{first}
	for _, n := range c.Nodes() {
		if n != first {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// DialReader returns what makes readers at the leader, or at another node.
func (c *Cluster) DialReader(ctx context.Context, atLeader bool) (bench.Dial, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	at := c.from(leader)[0]
	if !atLeader {
		at = c.from(leader)[1]
	}
	return func(func(bool)) (bench.Client, error) { return c.driver.dialReader(at) }, nil
}

// until calls f until it succeeds or ctx ends.
func until(ctx context.Context, f func(ctx context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := f(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// version is that of a module that this program is made of.
func version(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == module {
				return m.Version
			}
		}
	}
	return "unknown"
}
