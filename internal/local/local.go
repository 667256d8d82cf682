// Package local runs a cluster of `parley serve` processes on this machine and
// does to them what can happen to machines: kill, pause, stop, restart, wipe.
//
// It stands where a service manager would stand, for `parley dev`, for
// `parley chaos` and for the tests of whole processes. It knows the flags of
// `parley serve` and the ops address, and nothing else of the system.
package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config says which processes to run and where.
type Config struct {
	Binary string // the parley binary; "": the running one
	Dir    string // holds certificates, data and logs of all nodes; made if missing
	Nodes  int    // number of nodes, named n1, n2, …; 0: 3

	// The first node's ports; the others count up from there. 0: free ports are
	// picked, outside the range from which the system takes the ports of outgoing
	// connections, so that a killed node finds its port again.
	ClientPort, PeerPort, OpsPort int

	Hosts []string // each node's address; nil: 127.0.0.1 for all
	Args  []string // further flags for every `parley serve`

	// Wrap, if set, changes the command line of a node before it is started, for
	// instance to run it in a network namespace. The process must keep its id.
	Wrap func(node string, argv []string) []string

	// Dial, if set, makes the connections to the nodes' addresses, which may be out
	// of this process's own reach; see [Cluster.Dial].
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// OnExit, if set, is told of each process that has ended. It must not wait
	// for the cluster.
	OnExit func(Exit)

	StopTimeout time.Duration // SIGTERM to SIGKILL; 0: 20 s
}

// Exit is the end of a node's process.
type Exit struct {
	Node   *Node
	PID    int
	Err    error         // nil: status 0
	Wanted bool          // by Kill or Stop
	After  time.Duration // how long it ran
}

// Cluster is a set of node processes.
//
// It owns one goroutine that starts processes and one per running process that
// waits for it; Close ends them all. Safe for concurrent use.
type Cluster struct {
	cfg    Config
	nodes  []*Node
	starts chan func() // run on the one thread whose death kills the processes

	close      sync.Once
	closing    chan struct{} // closed: no more starts
	noStarts   chan struct{} // closed: none is under way either
	killed     chan struct{} // closed: no process is left
	goroutines sync.WaitGroup
}

// New prepares the directory (certificates, ports) and starts nothing.
func New(ctx context.Context, cfg Config) (*Cluster, error) {
	if cfg.Nodes == 0 {
		cfg.Nodes = 3
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = 20 * time.Second
	}
	if cfg.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cfg.Binary = exe
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Dir == "" {
		return nil, errors.New("local: no directory given")
	}
	if cfg.Nodes < 1 || cfg.Nodes > 99 {
		return nil, fmt.Errorf("local: %d nodes: must be 1 to 99", cfg.Nodes)
	}
	if cfg.Hosts != nil && len(cfg.Hosts) != cfg.Nodes {
		return nil, fmt.Errorf("local: %d hosts for %d nodes", len(cfg.Hosts), cfg.Nodes)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, starts: make(chan func()),
		closing: make(chan struct{}), noStarts: make(chan struct{}), killed: make(chan struct{}),
	}
	if err := c.layOut(); err != nil {
		return nil, err
	}
	if err := c.makeCerts(ctx); err != nil {
		return nil, err
	}
	c.goroutines.Go(c.starter)
	return c, nil
}

// layOut names the nodes and gives them their places.
func (c *Cluster) layOut() error {
	n := c.cfg.Nodes
	ports, err := c.ports()
	if err != nil {
		return err
	}
	for i := range n {
		name := "n" + strconv.Itoa(i+1)
		host := "127.0.0.1"
		if c.cfg.Hosts != nil {
			host = c.cfg.Hosts[i]
		}
		addr := func(kind int) string { return net.JoinHostPort(host, strconv.Itoa(ports[kind][i])) }
		c.nodes = append(c.nodes, &Node{
			Name: name, Client: addr(0), Peer: addr(1), Ops: addr(2),
			Data: filepath.Join(c.cfg.Dir, name), Log: filepath.Join(c.cfg.Dir, name+".log"),
			c: c,
		})
	}
	return nil
}

// makeCerts has the binary make what certificates are missing. They are good
// for all the nodes' addresses, which saves running it once for each.
func (c *Cluster) makeCerts(ctx context.Context) error {
	hosts := []string{"localhost"}
	args := []string{"certs", "--dir", c.certs()}
	for _, n := range c.nodes {
		if host, _, _ := net.SplitHostPort(n.Client); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
		args = append(args, n.Name)
	}
	return c.parley(ctx, append(args, "--hosts", strings.Join(hosts, ","))...)
}

// parley runs the binary to its end.
func (c *Cluster) parley(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, c.cfg.Binary, args...)
	cmd.Env = environ()
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("parley %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// environ is the environment of the nodes: this process's without PARLEY_*
// variables, which may have been meant for this process only.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PARLEY_") {
			env = append(env, kv)
		}
	}
	return env
}

func (c *Cluster) certs() string { return filepath.Join(c.cfg.Dir, "certs") }

// Certs is the directory that holds ca.pem and the nodes' certificates.
func (c *Cluster) Certs() string { return c.certs() }

// Nodes returns the nodes n1, n2, ….
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Node returns the node of that name, nil if there is none.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Dial connects to a node's address, as net.Dialer.DialContext does.
func (c *Cluster) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return c.cfg.Dial(ctx, network, addr)
}

// Servers returns the client addresses of all nodes.
func (c *Cluster) Servers() []string {
	var s []string
	for _, n := range c.nodes {
		s = append(s, n.Client)
	}
	return s
}

// Members is the value of the nodes' --members flag.
func (c *Cluster) Members() string {
	var s []string
	for _, n := range c.nodes {
		s = append(s, n.Name+"="+n.Peer)
	}
	return strings.Join(s, ",")
}

// Start starts all nodes that are not running.
func (c *Cluster) Start() error {
	for _, n := range c.nodes {
		if n.PID() != 0 {
			continue
		}
		if err := n.Start(); err != nil {
			return err
		}
	}
	return nil
}

// WaitReady waits until every node that has been started says that it is ready.
// It fails at once when one of them ends by itself.
func (c *Cluster) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var first error
	var once sync.Once
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		if n.PID() == 0 && !n.ended() {
			continue
		}
		wg.Go(func() {
			if err := n.WaitReady(ctx); err != nil {
				once.Do(func() { first = err })
				cancel() // the others wait in vain
			}
		})
	}
	wg.Wait()
	return first
}

// Stop stops all nodes cleanly, and kills those that have not ended within the
// stop time-out or when ctx ends.
func (c *Cluster) Stop(ctx context.Context) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = n.Stop(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Kill kills all nodes at the same instant, as far as one machine knows instants.
func (c *Cluster) Kill() {
	for _, n := range c.nodes {
		n.SendKill()
	}
	for _, n := range c.nodes {
		n.Kill()
	}
}
