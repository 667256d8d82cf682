// Command parley runs and uses a Parley chat cluster: `parley dev` starts one
// on this machine, `parley serve` runs one node, `parley chat` talks.
//
// This package is flags, wiring and words for people; what the system does is
// in the packages that it puts together.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() { os.Exit(mainCode()) }

// mainCode runs the program with the process's arguments and returns its exit status.
func mainCode() int {
	slacken(runsNode(os.Args[1:])) // before signals are caught
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	return exitCode(err)
}

// runsNode reports whether the command line is one of `parley serve`.
func runsNode(args []string) bool {
	cmd, _, err := newRootCmd(&app{}).Find(args)
	return err == nil && cmd.Name() == "serve"
}

// app is what every command has: the outer world.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

// run executes one command line. It has said on stderr what went wrong when it
// returns an error.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRootCmd(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	var quiet *quietError
	if err != nil && !errors.As(err, &quiet) {
		fmt.Fprintf(stderr, "parley: %s\n", visible(err.Error()))
		if exitCode(err) == exitUsage {
			fmt.Fprintf(stderr, "Try '%s --help'.\n", cmd.CommandPath())
		}
	}
	return err
}

const rootHelp = `Parley is a chat cluster that keeps every acknowledged message while any
minority of its machines dies.

Start with 'parley dev', which runs three nodes on this machine, and
'parley chat' in a second terminal.

Every flag can also be set by an environment variable, --idle-timeout by
PARLEY_IDLE_TIMEOUT, and in a TOML file named by --config, as idle-timeout = "90s".
A flag goes before the environment, which goes before the file.

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no quorum or no node
reachable, 130 interrupted.`

func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "parley",
		Short:         "A chat cluster that keeps its messages",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q", args[0])
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return settle(cmd, os.LookupEnv) },
	}
	root.PersistentFlags().String("config", "", "TOML `file` with values for flags that are not given")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		newVersionCmd(a),
		newCertsCmd(a),
		newHealthCmd(a),
		newChatCmd(a),
		newListenCmd(a),
		newChaosCmd(a),
		newBenchCmd(a),
	)
	root.AddCommand(newServeCmd(a), newDevCmd(a), newConvertLogCmd(a), newAdminCmd(a), newMemberCmd(a))
	root.AddCommand(oneShot(a)...)
	return root
}
