package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/bench"
)

const benchHelp = `Bench measures how fast a cluster is, as programs that use it see it: through the
client library, with sessions, deduplication and acknowledgements. It makes users
of its own and deletes them in the end, after Ctrl-C too.

What is measured is said by --mode:

  send   messages, until the cluster has acknowledged them. Nobody reads the mail:
         bench acknowledges each mailbox's from a connection of its own after every
         1,000 messages or 4 MiB, so that no mailbox fills up
  e2e    messages, until a reader has been shown them. Each mailbox has a reader on
         a connection of its own that acknowledges what it reads; the clock is that
         of this process. --reader-servers puts the readers on other nodes. A
         command is under way until the message has been shown
  mixed  four messages as in send, then one look at up to 10 unread messages
  idle   --senders connections that do nothing: how many stay for --duration, and
         the time to make one. --ops tells what the nodes' memory does
  list   pages of the list of users

--senders, each with a connection and a session, have --window commands under way
each; a window of 1 is a closed loop. At a fixed --rate each command has a time at
which it is due, and its latency counts from then, also when an earlier one was in
the way: a cluster that stalls is not spared what it kept waiting. What was due and
not begun in time is counted as 'behind', and in the latencies as it stood.

The rate counts what was completed after the warm-up, the latencies are of what was
begun after it.

Exit status: 0 measured, 1 failed, 2 wrong usage, 3 no answer, 130 interrupted (what
was measured until then is printed all the same).`

// benchFlags are what the bench command was asked to do.
type benchFlags struct {
	*app
	remote
	cfg           bench.Config
	mode          string
	size          int64
	readerServers []string
	ops           []string
	cpuProfile    string
	json          bool
}

func newBenchCmd(a *app) *cobra.Command {
	b := &benchFlags{app: a}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast a cluster is",
		Long:  benchHelp,
		Args:  exactly(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return b.run(cmd) },
	}
	b.remote.add(cmd, "give up when the cluster does not answer for this `time` before or after the load")
	f := cmd.Flags()
	f.StringVar(&b.mode, "mode", "send", "`what` to measure: send, e2e, mixed, idle or list")
	f.IntVar(&b.cfg.Senders, "senders", 16, "`number` of senders, each with a connection; idle: of connections")
	f.IntVar(&b.cfg.Window, "window", 16, "`number` of commands that a sender has under way")
	sizeVar(f, &b.size, "size", 100, "bytes of a message")
	f.IntVar(&b.cfg.Users, "users", 64, "`number` of mailboxes")
	f.DurationVar(&b.cfg.Duration, "duration", 10*time.Second, "`time` for which is measured")
	f.DurationVar(&b.cfg.Warmup, "warmup", 2*time.Second, "`time` of load before that")
	f.Float64Var(&b.cfg.Rate, "rate", 0, "commands per second of all senders together; 0: as many as the cluster takes")
	f.StringVar(&b.cfg.Pattern, "pattern", "", "list: only users that match this regular `expression` (RE2)")
	f.IntVar(&b.cfg.Page, "page", 0, "list: most `names` in a page; 0: as many as the cluster gives")
	f.StringSliceVar(&b.readerServers, "reader-servers", nil, "e2e: client `addresses` of nodes to which readers connect and stay connected, leading or not (default: readers connect as senders do)")
	f.StringSliceVar(&b.ops, "ops", nil, "ops `addresses` of nodes whose memory is to be reported")
	f.StringVar(&b.cpuProfile, "cpu-profile", "", "write a CPU profile of bench itself to this `file`")
	f.BoolVar(&b.json, "json", false, "print one JSON object")
	return cmd
}

// check finds mistakes in the flags.
func (b *benchFlags) check(given func(flag string) bool) error {
	b.cfg.Mode, b.cfg.Size, b.cfg.Patience = bench.Mode(b.mode), int(b.size), b.timeout
	known := false
	var modes []string
	for _, m := range bench.Modes() {
		known = known || m == b.cfg.Mode
		modes = append(modes, string(m))
	}
	switch {
	case !known:
		return usagef("--mode: %q is none of %s", b.mode, strings.Join(modes, ", "))
	case b.cfg.Senders < 1 || b.cfg.Senders > bench.MaxSenders:
		return usagef("--senders: %d must be 1 to %d", b.cfg.Senders, bench.MaxSenders)
	case b.cfg.Window < 1 || b.cfg.Window > bench.MaxWindow:
		return usagef("--window: %d must be 1 to %d", b.cfg.Window, bench.MaxWindow)
	case b.size < 1 || b.size > maxText:
		return usagef("--size: %d must be 1 to %d", b.size, maxText)
	case b.cfg.Mode == bench.E2E && b.size < bench.MinE2EBytes:
		return usagef("--size: %d must be at least %d to measure from end to end", b.size, bench.MinE2EBytes)
	case b.cfg.Users < 1 || b.cfg.Users > 10_000_000:
		return usagef("--users: %d must be 1 to 10000000", b.cfg.Users)
	case b.cfg.Mode == bench.E2E && b.cfg.Users > bench.MaxSenders:
		return usagef("--users: %d readers are too many, up to %d can connect", b.cfg.Users, bench.MaxSenders)
	case b.cfg.Duration <= 0:
		return usagef("--duration: %v must be more than nothing", b.cfg.Duration)
	case b.cfg.Warmup < 0:
		return usagef("--warmup: %v must not be negative", b.cfg.Warmup)
	case !(b.cfg.Rate >= 0 && b.cfg.Rate <= 1e9) || b.cfg.Rate > 0 && float64(b.cfg.Senders)/b.cfg.Rate > math.MaxInt32:
		return usagef("--rate: %v must be a number of commands per second, or 0", b.cfg.Rate)
	case b.cfg.Page < 0:
		return usagef("--page: %d must not be negative", b.cfg.Page)
	}
	for flag, modes := range map[string]string{
		"pattern": "list", "page": "list", "reader-servers": "e2e",
		"rate": "send e2e mixed list", "window": "send e2e mixed list", "size": "send e2e mixed", "users": "send e2e mixed list", "warmup": "send e2e mixed list",
	} {
		if given(flag) && !strings.Contains(modes, b.mode) {
			return usagef("--%s means nothing in mode %s", flag, b.mode)
		}
	}
	return nil
}

func (b *benchFlags) run(cmd *cobra.Command) (err error) {
	if err := b.check(func(flag string) bool { return cmd.Flag(flag).Changed }); err != nil {
		return err
	}
	if err := b.connect(); err != nil {
		return err
	}
	if b.cpuProfile != "" {
		stop, err := profile(b.cpuProfile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	progress := b.newProgress()
	if progress != nil {
		b.cfg.Progress = progress.point
	}
	report, err := bench.Run(cmd.Context(), b.cfg)
	progress.clear()
	if report.Done > 0 || report.Errors > 0 {
		if printErr := b.print(report); printErr != nil {
			return printErr
		}
	}
	for _, problem := range report.Problems {
		fmt.Fprintf(b.stderr, "%s\n", visible(problem))
	}
	return err
}

// connect says how the run gets its connections and the nodes' memory.
func (b *benchFlags) connect() error {
	dial, err := b.dialer(&b.remote, false)
	if err != nil {
		return err
	}
	b.cfg.Dial = dial
	if len(b.readerServers) > 0 {
		readers := b.remote
		readers.servers = b.readerServers
		if b.cfg.DialReader, err = b.dialer(&readers, true); err != nil {
			return err
		}
	}
	if len(b.ops) > 0 {
		b.cfg.Memory = func(ctx context.Context) ([]bench.Memory, error) { return nodesMemory(ctx, b.ops) }
	}
	return nil
}

// dialer returns what makes clients. What is wrong with the flags shows here,
// not with the first client.
func (b *benchFlags) dialer(r *remote, anyNode bool) (bench.Dial, error) {
	probe, err := r.dial(nil)
	if err != nil {
		return nil, err
	}
	probe.Close()
	return func(connected func(bool)) (bench.Client, error) {
		return r.dial(func(cfg *client.Config) {
			cfg.Any = anyNode
			cfg.Window = max(b.cfg.Window, 1024)
			if connected == nil {
				return
			}
			cfg.Events = func(e client.Event) {
				switch e.Kind {
				case client.Connected:
					connected(true)
				case client.Lost:
					connected(false)
				}
			}
		})
	}, nil
}

// profile begins a CPU profile of this process.
func profile(file string) (stop func() error, err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}
