package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
)

func newStatusCmd(a *app) *cobra.Command {
	q := &question{app: a}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the members of the cluster",
		Long: `Status asks the first node that it reaches for the members of the cluster. It is
answered without a majority too; then no member is the leader. What a node warns
of, such as a certificate that must be renewed within 30 days, is on stderr, or
with --json under "warnings".`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			anyNode := func(cfg *client.Config) { cfg.Any = true } // the leader may be what is missing
			return q.ask(cmd, anyNode, func(ctx context.Context, c *client.Client, _ *parley.Session) error {
				members, warnings, err := clusterStatus(ctx, c)
				if err != nil {
					return err
				}
				if q.json {
					return printJSON(q.stdout, statusView{members, warnings})
				}
				for _, w := range warnings {
					fmt.Fprintf(q.stderr, "warning: %s\n", visible(w))
				}
				return printMembers(q.stdout, members)
			})
		},
	}
	q.add(cmd)
	return cmd
}

// statusView is what `parley status --json` prints.
type statusView struct {
	Members  []parley.Member `json:"members"`
	Warnings []string        `json:"warnings,omitempty"`
}

// clusterMembers asks for the members, in the order of their names.
func clusterMembers(ctx context.Context, s parley.Service) ([]parley.Member, error) {
	members, _, err := clusterStatus(ctx, s)
	return members, err
}

// clusterStatus asks for the members, in the order of their names, and for what
// they warn of.
func clusterStatus(ctx context.Context, s parley.Service) (members []parley.Member, warnings []string, err error) {
	res, err := s.Get(ctx, parley.Status{})
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		return nil, nil, err
	}
	members = slices.Clone(res.Members)
	if members == nil {
		members = []parley.Member{}
	}
	slices.SortFunc(members, func(x, y parley.Member) int { return cmp.Compare(x.ID, y.ID) })
	if res.Detail != "" {
		warnings = strings.Split(res.Detail, "\n")
	}
	return members, warnings, nil
}

func printMembers(out io.Writer, members []parley.Member) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLE\tCLIENT\tPEER\tTERM\tAPPLIED\tREACHABLE")
	for _, m := range members {
		reachable, term, applied := "no", "-", "-"
		if m.Reachable {
			reachable = "yes"
			term, applied = strconv.FormatUint(m.Term, 10), strconv.FormatUint(m.Applied, 10)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			visible(m.ID), visible(string(m.Role)), visible(m.Client), visible(m.Peer), term, applied, reachable)
	}
	return w.Flush()
}
