package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/local"
)

// developer runs a cluster on this machine: the dev command.
type developer struct {
	*app
	cfg          local.Config
	logStore     string
	startTimeout time.Duration
	restartAfter time.Duration

	exits chan local.Exit
}

func newDevCmd(a *app) *cobra.Command {
	d := &developer{app: a}
	cmd := &cobra.Command{
		Use:   "dev [-- SERVE-FLAG...]",
		Short: "Run a whole cluster on this machine",
		Long: `Dev runs a cluster on this machine: real 'parley serve' processes with data,
certificates and logs in --dir. It prints a line for each node and, once all are
in and one leads, a line that starts with 'ready'.

A node that dies is reported and started again after --restart-after; so kill one
and watch. Ctrl-C stops all; the next start with the same --dir goes on where this
one ended. Flags after -- are given to every node, and so is --config.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); len(args) > 0 && dash != 0 {
				return usagef("%s: %q is one argument too many; flags for the nodes come after --", cmd.CommandPath(), args[0])
			}
			if file := cmd.Flag("config").Value.String(); file != "" {
				args = append([]string{"--config", file}, args...)
			}
			if cmd.Flag("log-store").Changed {
				args = append([]string{"--log-store", d.logStore}, args...)
			}
			d.cfg.Args = args
			return d.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.IntVar(&d.cfg.Nodes, "nodes", 3, "`number` of nodes")
	f.StringVar(&d.cfg.Dir, "dir", "parley-data", "`directory` for everything")
	f.IntVar(&d.cfg.ClientPort, "client-port", 3000, "client `port` of the first node, the others count up; 0: any free ones")
	f.IntVar(&d.cfg.PeerPort, "peer-port", 7000, "peer `port` of the first node; 0: any free ones")
	f.IntVar(&d.cfg.OpsPort, "ops-port", 8080, "ops `port` of the first node; 0: any free ones")
	logStoreVar(f, &d.logStore)
	f.DurationVar(&d.startTimeout, "start-timeout", time.Minute, "longest `time` until the cluster is ready")
	f.DurationVar(&d.restartAfter, "restart-after", time.Second, "`time` after which a dead node is started again; 0: never")
	return cmd
}

func (d *developer) run(ctx context.Context) error {
	if d.cfg.Nodes < 1 || d.cfg.Nodes > 99 {
		return usagef("--nodes: %d must be 1 to 99", d.cfg.Nodes)
	}
	if err := d.checkDir(); err != nil {
		return err
	}
	d.exits = make(chan local.Exit, 2*d.cfg.Nodes) // a node that ended is started again only after its exit was read
	d.cfg.OnExit = func(e local.Exit) { d.exits <- e }
	c, err := local.New(ctx, d.cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.CheckPorts(); err != nil {
		return fmt.Errorf("%w (is another cluster running? --client-port, --peer-port and --ops-port choose others)", err)
	}
	for _, n := range c.Nodes() {
		if err := d.start(n); err != nil {
			return err
		}
	}
	if err := d.awaitReady(ctx, c); err != nil {
		if ctx.Err() != nil { // Ctrl-C
			return d.stop(c)
		}
		return err
	}
	d.supervise(ctx, c)
	return d.stop(c)
}

// checkDir makes sure that the directory, if it holds a cluster, holds one of
// this many nodes: more would not be its members, fewer may be no majority.
func (d *developer) checkDir() error {
	entries, err := os.ReadDir(d.cfg.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	nodeDir := regexp.MustCompile(`^n[0-9]+$`)
	found := 0
	for _, e := range entries {
		if e.IsDir() && nodeDir.MatchString(e.Name()) {
			found++
		}
	}
	if found > 0 && found != d.cfg.Nodes {
		return fmt.Errorf("%s holds a cluster of %d nodes: say --nodes %d, or choose another --dir", d.cfg.Dir, found, found)
	}
	return nil
}

// start starts a node and says where it is.
func (d *developer) start(n *local.Node) error {
	if err := n.Start(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(d.stdout, "node %s pid %d client %s peer %s ops %s\n", n.Name, n.PID(), n.Client, n.Peer, n.Ops)
	return err
}

// awaitReady waits until all members are in and one of them leads.
func (d *developer) awaitReady(ctx context.Context, c *local.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, d.startTimeout)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		return fmt.Errorf("%w (logs are in %s)", err, filepath.Join(d.cfg.Dir, "n*.log"))
	}
	leader, err := awaitMembers(ctx, c.Servers())
	if err != nil {
		return fmt.Errorf("not ready within %v: %w", d.startTimeout, err)
	}
	_, err = fmt.Fprintf(d.stdout, "ready: %s leads; try: parley chat --servers %s\n",
		leader, strings.Join(c.Servers(), ","))
	return err
}

// awaitMembers waits until a cluster of nodes at these client addresses is
// complete, and returns its leader's name.
func awaitMembers(ctx context.Context, servers []string) (leader string, err error) {
	c, err := client.New(client.Config{Servers: servers})
	if err != nil {
		return "", err
	}
	defer c.Close()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		members, err := clusterMembers(ctx, c)
		if err == nil {
			if leader := complete(members, len(servers)); leader != "" {
				return leader, nil
			}
			err = errors.New("not all members are in")
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-tick.C:
		}
	}
}

// complete returns the leader's name if all members are there and follow it.
func complete(members []parley.Member, want int) string {
	var leader string
	n := 0
	for _, m := range members {
		if !m.Reachable {
			continue
		}
		switch m.Role {
		case parley.RoleLeader:
			leader = m.ID
			n++
		case parley.RoleFollower:
			n++
		}
	}
	if n != want {
		return ""
	}
	return leader
}

// supervise reports nodes that end and starts them again, until ctx ends. A
// node that dies young again and again is given ever more time.
func (d *developer) supervise(ctx context.Context, c *local.Cluster) {
	const young, longest = 10 * time.Second, time.Minute
	wait := map[*local.Node]time.Duration{}
	restart := make(chan *local.Node)
	for {
		select {
		case e := <-d.exits:
			w := d.restartAfter
			if e.After < young {
				w = max(w, min(2*wait[e.Node], longest))
			}
			wait[e.Node] = w
			d.report(e, w)
			if d.restartAfter > 0 {
				time.AfterFunc(w, func() {
					select {
					case restart <- e.Node:
					case <-ctx.Done():
					}
				})
			}
		case n := <-restart:
			if err := d.start(n); err != nil {
				fmt.Fprintf(d.stderr, "parley: %s\n", visible(err.Error()))
			}
		case <-ctx.Done():
			return
		}
	}
}

// report tells of a node that ended without being asked to.
func (d *developer) report(e local.Exit, again time.Duration) {
	how, next := "ended", "it stays down"
	if e.Err != nil {
		how = "died: " + e.Err.Error()
	}
	if d.restartAfter > 0 {
		next = fmt.Sprintf("starting it again in %v", again)
	}
	fmt.Fprintf(d.stderr, "node %s pid %d %s; %s\n", e.Node.Name, e.PID, how, next)
	if e.Err != nil && e.Err.Error() != "signal: killed" {
		fmt.Fprintf(d.stderr, "  %s ends with: %s\n", e.Node.Log, visible(e.Node.LastLog()))
	}
}

// stop stops all nodes in order.
func (d *developer) stop(c *local.Cluster) error {
	fmt.Fprintln(d.stderr, "stopping")
	return c.Stop(context.Background())
}
