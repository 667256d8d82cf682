package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/parley-chat/parley/node"
)

// logStoreVar defines the flag for commands that start nodes.
func logStoreVar(f *pflag.FlagSet, p *string) {
	f.StringVar(p, "log-store", string(node.LogBolt), "the nodes' log `store`: bolt or wal")
}

const convertLogHelp = `Convert-log moves the log of one node to the other store: bolt, the default, or
wal, which is faster (see --log-store of 'parley serve'). The node must not be
running. The new log is written next to the old one, synced and compared with it
entry by entry; then it takes its place at once, and the old one is removed. If
this is interrupted, repeat it. Nothing else of the node's data changes.

Stop one node, convert it, start it with the other --log-store, wait until
'parley health' says that it is ready, then go on to the next. Nodes with
different stores work together.`

func newConvertLogCmd(a *app) *cobra.Command {
	var dir, to string
	cmd := &cobra.Command{
		Use:   "convert-log",
		Short: "Move a stopped node's log to the other store",
		Long:  convertLogHelp,
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			switch {
			case dir == "":
				return usagef("--data is missing: the directory with the node's data")
			case !node.LogStore(to).Valid():
				return usagef("--to: %q is neither bolt nor wal", to)
			}
			c, err := node.ConvertLog(dir, node.LogStore(to))
			if err != nil {
				return err
			}
			done := fmt.Sprintf("converted to %s: log entries %d to %d; start the node with --log-store %s", to, c.First, c.Last, to)
			switch {
			case c.Already:
				done = fmt.Sprintf("the log is in the %s store already", to)
			case c.Last == 0:
				done = fmt.Sprintf("converted to %s: no log entries; start the node with --log-store %s", to, to)
			}
			_, err = fmt.Fprintf(a.stdout, "%s: %s\n", visible(dir), done)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "data", "", "`directory` of the node's data")
	f.StringVar(&to, "to", "", "the `store` that the log is to be in: bolt or wal")
	return cmd
}
