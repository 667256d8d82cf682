package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/certs"
)

// adminRemote is how administrative commands reach a node.
type adminRemote struct {
	*app
	socket, server, certs, as string
	timeout                   time.Duration
	json                      bool
}

func (r *adminRemote) add(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&r.socket, "admin-socket", "parley-data/n1/"+adminSocketName, "the node's admin `socket`, in its data directory")
	f.StringVar(&r.server, "admin-server", "", "the node's admin `address` instead, as given to its --admin-listen")
	f.StringVar(&r.certs, "certs", "certs", "`directory` with ca.pem and the administrator's certificate and key, for --admin-server")
	f.StringVar(&r.as, "as", "", "the administrator's `name`, as in 'parley certs client NAME --admin'")
	f.DurationVar(&r.timeout, "timeout", adminTimeout, timeoutUsage)
	f.BoolVar(&r.json, "json", false, "print one JSON object")
}

// client returns what speaks to the node, and its base address.
func (r *adminRemote) client() (*http.Client, string, error) {
	t := &http.Transport{DisableKeepAlives: true}
	if r.server == "" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", r.socket)
		}
		return &http.Client{Transport: t}, "http://node", nil
	}
	if r.as == "" {
		return nil, "", usagef("--as is missing: the administrator's name, as in its certificate")
	}
	if err := certs.CheckName(r.as); err != nil {
		return nil, "", usagef("--as: %w", err)
	}
	var err error
	if t.TLSClientConfig, err = certs.DialAs(certs.Paths(r.certs, r.as)); err != nil {
		return nil, "", err
	}
	t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	return &http.Client{Transport: t}, "https://" + r.server, nil
}

// do has the node carry out an act and decodes its result.
func (r *adminRemote) do(ctx context.Context, act string, args adminArgs, result any) error {
	client, base, err := r.client()
	if err != nil {
		return err
	}
	body, err := json.Marshal(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/"+act, bytes.NewReader(body))
	if err != nil {
		return usagef("--admin-server: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return parley.Errorf(parley.CodeNoQuorum, "the node cannot be reached: %v", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		var e jsonError
		if err := json.Unmarshal(answer, &e); err != nil {
			return fmt.Errorf("%s: %.200s", res.Status, answer)
		}
		return &parley.Error{Code: e.Error.Code, Detail: strings.TrimPrefix(e.Error.Detail, e.Error.Name+": ")}
	}
	return json.Unmarshal(answer, result)
}

// runAct is do for a command: it prints the result as JSON, or has it printed by show.
func runAct[T any](cmd *cobra.Command, r *adminRemote, act string, args adminArgs, show func(T) error) error {
	var result T
	err := r.do(cmd.Context(), act, args, &result)
	switch {
	case err != nil && r.json && exitCode(err) != exitUsage:
		_ = printJSON(r.stdout, jsonErrorOf(err))
		return err
	case err != nil:
		return err
	case r.json:
		return printJSON(r.stdout, result)
	}
	return show(result)
}

func newAdminCmd(a *app) *cobra.Command {
	r := &adminRemote{app: a}
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Administer a node and its cluster",
		Long: `Admin asks a node to do what only administrators may. It reaches the node by a
Unix socket in its data directory, which only the node's own user and root can
open, or from afar by --admin-server with an administrator's certificate (see
'parley certs client --admin'). The node logs who did what.`,
		Args: exactly("what to do: status, transfer, drain, policy, passwd, delete or invite"),
		RunE: func(_ *cobra.Command, args []string) error { return usagef("there is no 'parley admin %s'", args[0]) },
	}
	r.add(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use:   "status",
			Short: "Show the node and the members of its cluster",
			Args:  exactly(),
			RunE:  func(cmd *cobra.Command, _ []string) error { return runAct(cmd, r, "status", adminArgs{}, r.showStatus) },
		},
		&cobra.Command{
			Use:   "transfer [NODE]",
			Short: "Hand leadership to a node, or to the one that is most caught up",
			Args:  atMost(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return runAct(cmd, r, "transfer", adminArgs{Name: strings.Join(args, "")}, func(res struct {
					Leader string `json:"leader"`
				}) error {
					_, err := fmt.Fprintf(r.stdout, "leader %s\n", visible(res.Leader))
					return err
				})
			},
		},
		&cobra.Command{
			Use:   "drain",
			Short: "Free the node of clients and leadership, until it is started again",
			Args:  exactly(),
			RunE: func(cmd *cobra.Command, _ []string) error {
				return runAct(cmd, r, "drain", adminArgs{}, func(res struct {
					Drained string `json:"drained"`
				}) error {
					_, err := fmt.Fprintf(r.stdout, "drained %s\n", visible(res.Drained))
					return err
				})
			},
		},
	)
	cmd.AddCommand(r.userCmds()...)
	return cmd
}

func (r *adminRemote) showStatus(s adminStatus) error {
	drained := ""
	if s.Drained {
		drained = ", drained"
	}
	fmt.Fprintf(r.stdout, "node %s, version %s%s\n", visible(s.Node), visible(s.Version), drained)
	for _, w := range s.Warnings {
		fmt.Fprintf(r.stderr, "warning: %s\n", visible(w))
	}
	return printMembers(r.stdout, s.Members)
}

func newMemberCmd(a *app) *cobra.Command {
	r := &adminRemote{app: a}
	cmd := &cobra.Command{
		Use:   "member",
		Short: "List the members of a cluster, or remove one for good",
		Long: `Member changes who is in a cluster. A node is added by being started with --join and
a certificate of the cluster's authority; it gets a vote when it has caught up.
'parley member remove' takes one out for good. Flags as for 'parley admin'.`,
		Args: exactly("what to do: list or remove"),
		RunE: func(_ *cobra.Command, args []string) error { return usagef("there is no 'parley member %s'", args[0]) },
	}
	r.add(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use:   "list",
			Short: "List the members",
			Args:  exactly(),
			RunE:  func(cmd *cobra.Command, _ []string) error { return runAct(cmd, r, "status", adminArgs{}, r.showStatus) },
		},
		&cobra.Command{
			Use:   "remove NODE",
			Short: "Remove a member for good, alive or dead",
			Long: `Remove takes a member out of the cluster. It is refused if the members that stay
would have no majority of them alive. Afterwards stop the node, if it still runs,
and remove its data: it must not be started with it again. Its name may join
again with an empty data directory and --join.`,
			Args: exactly("the member's name"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return runAct(cmd, r, "member-remove", adminArgs{Name: args[0]}, func(res struct {
					Removed string `json:"removed"`
				}) error {
					_, err := fmt.Fprintf(r.stdout, "removed %s\n", visible(res.Removed))
					return err
				})
			},
		},
	)
	return cmd
}
