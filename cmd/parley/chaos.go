package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley/internal/chaos"
)

const chaosHelp = `Chaos finds out whether a cluster keeps its promises while its nodes fail.

It starts a cluster of its own on this machine, keeps senders and readers busy
through the client library, and again and again makes a node fail and mends it:
three times out of four the leader, else another one (--only-leaders: always the
leader), and always one at a time, after the former is back and has caught up. It
goes on for --duration, or until there have been --kills failures. --fault says
how nodes fail; several take turns:

  kill        SIGKILL, and a new start after --down
  freeze      SIGSTOP, and SIGCONT after --frozen
  term        SIGTERM, by which a node hands leadership over before it ends, and a
              new start: a planned move
  cut         out of the network, and back after --down; with --kill-cmd only
  mixed       kill, freeze and term

At the end it waits until all mail has been read, and compares what was sent with
what arrived:

  lost        acknowledged and never delivered
  duplicated  delivered again to a reader that had it already
  reordered   delivered in another order than sent, or than to another reader
  phantom     delivered and never sent, or refused before

A message whose sending ended without an answer may arrive once or not at all.

The write gap of a failure is the time from just before it to the first
acknowledgement of a message whose sending began after it. A node that is asked to
stop works on for a while, and so it does while a --kill-cmd starts: the write gap
of term, and of all faults by --kill-cmd, is the longest time without any
acknowledgement, from just before until writing goes on after it. gap_ms
sums up the failures of leaders only (null if there were none), since others
interrupt nothing; kills counts all failures, elections by how much the term grew,
and faults has count and gap_ms for each kind of failure.

With --servers the load goes to a running cluster, on which chaos makes users of
its own and deletes them in the end. Its nodes are made to fail by --kill-cmd and
mended by --repair-cmd: shell commands that get the node's name as $1 and as
PARLEY_NODE, and the fault as $2 and as PARLEY_FAULT. Without --repair-cmd, nodes
are expected to come back by themselves.

With --steady nothing fails. Then an election is a failure: nothing caused it.
With --burners, that many processes do nothing but use the processors meanwhile.

Exit status: 0 all promises kept, 1 anything lost, duplicated, reordered or
phantom, or no verdict because the cluster did not recover, 2 wrong usage.`

// chaosFlags are what the chaos command was asked to do.
type chaosFlags struct {
	*app
	remote
	cfg                chaos.Config
	nodes              int
	faults             []string
	burners            int
	dir, logStore      string
	killCmd, repairCmd string
	json               bool
}

func newChaosCmd(a *app) *cobra.Command {
	c := &chaosFlags{app: a}
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Make nodes fail under load and check that no message suffers",
		Long:  chaosHelp,
		Args:  exactly(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.IntVar(&c.nodes, "nodes", 3, "`number` of nodes of the cluster that is started")
	f.DurationVar(&c.cfg.Duration, "duration", time.Minute, "`time` for which the load runs")
	f.StringSliceVar(&c.faults, "fault", []string{string(chaos.Kill)}, "how nodes fail, in turns: `kind` kill, freeze, term, cut or mixed")
	_ = cmd.RegisterFlagCompletionFunc("fault", completeFaults) // the flag exists
	f.BoolVar(&c.cfg.OnlyLeaders, "only-leaders", false, "make nobody fail but leaders")
	f.IntVar(&c.cfg.Kills, "kills", 0, "`number` of failures after which the load ends, if --duration is not over before; 0: no such limit")
	f.DurationVar(&c.cfg.KillEvery, "kill-every", 5*time.Second, "`time` from one failure to the next; longer when a node takes longer to come back")
	f.DurationVar(&c.cfg.Down, "down", time.Second, "`time` for which a node stays down")
	f.DurationVar(&c.cfg.Frozen, "frozen", 3*time.Second, "`time` for which a node stays frozen")
	f.BoolVar(&c.cfg.Steady, "steady", false, "make nobody fail, and fail if the cluster elects a new leader all the same")
	f.IntVar(&c.burners, "burners", 0, "`number` of processes that use the processors meanwhile")
	f.IntVar(&c.cfg.Senders, "senders", 8, "`number` of senders, and of mailboxes with a reader each")
	f.Float64Var(&c.cfg.Rate, "rate", 2000, "messages per second of all senders together; 0: as many as the cluster takes")
	f.DurationVar(&c.cfg.Patience, "patience", time.Minute, "`time` for the cluster to recover from a kill, and for the mail to be read at the end")
	f.StringVar(&c.dir, "dir", "", "keep the cluster's data and logs in this `directory` (default: a temporary one, kept only after a failure)")
	logStoreVar(f, &c.logStore)
	f.StringSliceVar(&c.servers, "servers", nil, "client `addresses` of a running cluster to use instead")
	f.StringVar(&c.killCmd, "kill-cmd", "", "shell `command` that makes node $1 of the running cluster fail")
	f.StringVar(&c.repairCmd, "repair-cmd", "", "shell `command` that mends it")
	f.BoolVar(&c.tls, "tls", false, "with --servers: use TLS and trust the system's authorities")
	f.StringVar(&c.ca, "ca", "", "with --servers: use TLS and trust the authorities in this `file`")
	f.BoolVar(&c.json, "json", false, "print the verdict as one JSON object")
	cmd.AddCommand(newBurnCmd(a))
	return cmd
}

// check finds mistakes in the flags.
func (c *chaosFlags) check() (err error) {
	if c.cfg.Faults, err = parseFaults(c.faults); err != nil {
		return err
	}
	for name, v := range map[string]time.Duration{
		"duration": c.cfg.Duration, "kill-every": c.cfg.KillEvery, "down": c.cfg.Down, "frozen": c.cfg.Frozen, "patience": c.cfg.Patience,
	} {
		if v <= 0 {
			return usagef("--%s: %v must be more than nothing", name, v)
		}
	}
	switch {
	case c.cfg.Senders < 1 || c.cfg.Senders > 1000:
		return usagef("--senders: %d must be 1 to 1000", c.cfg.Senders)
	case c.burners < 0 || c.burners > 1000:
		return usagef("--burners: %d must be 0 to 1000", c.burners)
	case c.cfg.Kills < 0:
		return usagef("--kills: %d must not be negative", c.cfg.Kills)
	case c.cfg.Rate < 0:
		return usagef("--rate: %v must not be negative", c.cfg.Rate)
	case len(c.servers) > 0 && c.killCmd == "" && !c.cfg.Steady:
		return usagef("--servers needs --steady, or --kill-cmd, which says how to make a node of that cluster fail")
	case len(c.servers) == 0 && (c.killCmd != "" || c.repairCmd != ""):
		return usagef("--kill-cmd and --repair-cmd are for a running cluster: say --servers")
	case len(c.servers) == 0 && slices.Contains(c.cfg.Faults, chaos.Cut):
		return usagef("--fault: cut is for a running cluster, whose --kill-cmd cuts a node off")
	case len(c.servers) == 0 && c.nodes < 3:
		return usagef("--nodes: %d must be at least 3: fewer survive no failure", c.nodes)
	}
	return nil
}

func (c *chaosFlags) run(ctx context.Context) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	c.timeout = c.cfg.Patience
	out, live := c.picture()
	target := chaosTarget(&commandTarget{kill: c.killCmd, repair: c.repairCmd, servers: c.servers})
	if len(c.servers) == 0 {
		fmt.Fprintf(out, "starting %d nodes\n", c.nodes)
		if target, err = startTarget(ctx, c.dir, c.nodes, "--log-store", c.logStore); err != nil {
			return err
		}
	}
	failed := true
	defer func() { err = errors.Join(err, target.close(ctx, failed)) }()

	c.servers = target.addresses()
	c.cfg.Target, c.cfg.SlowTarget = target, c.killCmd != ""
	c.cfg.Dial = func() (chaos.Client, error) { return c.dial(nil) }
	program, err := os.Executable()
	if err != nil {
		return err
	}
	burning, err := startBurners(program, c.burners)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, burning.close()) }()
	view := newChaosView(out, live, c.cfg)
	c.cfg.Events = view.event
	r, err := chaos.New(c.cfg)
	if err != nil {
		return err
	}
	view.begin(r)
	report, err := r.Do(ctx)
	view.end()

	err = errors.Join(err, target.deaths())
	if printErr := c.verdict(report, err); printErr != nil {
		return printErr
	}
	for _, problem := range report.Problems {
		fmt.Fprintf(c.stderr, "%s\n", visible(problem))
	}
	if err == nil && !report.OK() {
		err = &quietError{exitRefused}
	}
	failed = err != nil
	return err
}
