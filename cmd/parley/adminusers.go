package main

import (
	"context"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
)

// userActs are what administrators may do about users, the policy and invitations.
func (v *server) userActs() map[string]adminAct {
	run := func(ctx context.Context, c parley.Command) error {
		_, err := do(ctx, v.administrator, c)
		return err
	}
	return map[string]adminAct{
		"policy": func(ctx context.Context, a adminArgs) (any, error) { return v.policy(ctx, a) },
		"user-password": func(ctx context.Context, a adminArgs) (any, error) {
			return map[string]string{"user": a.Name}, run(ctx, parley.SetPassword{User: a.Name, New: parley.Secret(a.Secret)})
		},
		"user-delete": func(ctx context.Context, a adminArgs) (any, error) {
			return map[string]string{"user": a.Name}, run(ctx, parley.DeleteUser{Name: a.Name})
		},
		"invite-add": func(ctx context.Context, a adminArgs) (any, error) {
			uses, err := strconv.ParseUint(a.Value, 10, 32)
			if err != nil || uses == 0 {
				return nil, parley.Errorf(parley.CodeBadRequest, "uses: %.20q is no number from 1 on", a.Value)
			}
			code, hash := parley.NewInvite()
			err = run(ctx, parley.AddInvite{Invite: parley.Invite{Hash: hash, Uses: uint32(uses)}})
			return adminInvite{ID: hash.ID().String(), Uses: uint32(uses), Code: string(code)}, err
		},
		"invite-list": func(ctx context.Context, _ adminArgs) (any, error) { return v.invites(ctx) },
		"invite-revoke": func(ctx context.Context, a adminArgs) (any, error) {
			id, err := parley.ParseTokenID(a.Name)
			if err == nil {
				err = run(ctx, parley.RevokeInvite{ID: id})
			}
			return map[string]string{"revoked": a.Name}, err
		},
	}
}

// adminPolicy is the policy as an act returns it.
type adminPolicy struct {
	Auth         string `json:"auth"`
	Registration string `json:"registration"`
	Tokens       uint32 `json:"tokens"`
	Invites      uint32 `json:"invites"`
}

// adminInvite is an invitation as an act returns it.
type adminInvite struct {
	ID   string `json:"id"`
	Uses uint32 `json:"uses"`
	Code string `json:"code,omitempty"` // only when it is made
}

// policy changes one setting of the policy, if one is named, and returns all.
func (v *server) policy(ctx context.Context, a adminArgs) (any, error) {
	r, err := v.guard.Admin().Get(ctx, parley.GetPolicy{})
	if err != nil {
		return nil, err
	}
	p := *r.Policy
	if a.Key != "" {
		if err := setPolicy(&p, a.Key, a.Value); err != nil {
			return nil, err
		}
		if _, err := do(ctx, v.administrator, parley.SetPolicy{Policy: p}); err != nil {
			return nil, err
		}
	}
	return adminPolicy{p.Auth.String(), p.Registration.String(), p.Tokens, p.Invites}, nil
}

func setPolicy(p *parley.Policy, key, value string) error {
	number, err := strconv.ParseUint(value, 10, 32)
	isNumber := err == nil && number > 0
	switch {
	case key == "auth" && value == parley.AuthOpen.String():
		p.Auth = parley.AuthOpen
	case key == "auth" && value == parley.AuthRequired.String():
		p.Auth = parley.AuthRequired
	case key == "registration" && value == parley.RegistrationOpen.String():
		p.Registration = parley.RegistrationOpen
	case key == "registration" && value == parley.RegistrationInvite.String():
		p.Registration = parley.RegistrationInvite
	case key == "tokens" && isNumber:
		p.Tokens = uint32(number)
	case key == "invites" && isNumber:
		p.Invites = uint32(number)
	default:
		return parley.Errorf(parley.CodeBadRequest,
			"there is no policy %.20q %.20q, but auth open or required, registration open or invite, tokens N, invites N", key, value)
	}
	return nil
}

func (v *server) invites(ctx context.Context) (any, error) {
	list := []adminInvite{}
	for q := (parley.Invites{}); ; {
		r, err := v.guard.Admin().Get(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, i := range r.Invites {
			q.After = i.Hash.ID()
			list = append(list, adminInvite{ID: q.After.String(), Uses: i.Uses})
		}
		if !r.More {
			return map[string]any{"invites": list}, nil
		}
	}
}

// userCmds are the commands for userActs.
func (r *adminRemote) userCmds() []*cobra.Command {
	said := func(format string) func(map[string]string) error {
		return func(m map[string]string) error {
			for _, name := range m {
				fmt.Fprintf(r.stdout, format+"\n", visible(name))
			}
			return nil
		}
	}
	invite := &cobra.Command{
		Use:   "invite",
		Short: "Make, list and revoke invitation codes",
		Args:  exactly("what to do: add, list or revoke"),
		RunE: func(_ *cobra.Command, args []string) error {
			return usagef("there is no 'parley admin invite %s'", args[0])
		},
	}
	invite.AddCommand(r.inviteAddCmd(), r.inviteListCmd(), &cobra.Command{
		Use:   "revoke ID",
		Short: "Make an invitation code invalid",
		Args:  exactly("the invitation's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAct(cmd, r, "invite-revoke", adminArgs{Name: args[0]}, said("revoked %s"))
		},
	})
	return []*cobra.Command{
		r.policyCmd(), r.passwdCmd(said("password of %s set")), invite,
		{
			Use:   "delete USER",
			Short: "Delete a user and its mail",
			Args:  exactly("the user's name"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return runAct(cmd, r, "user-delete", adminArgs{Name: args[0]}, said("deleted %s"))
			},
		},
	}
}

func (r *adminRemote) policyCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "policy [KEY VALUE]",
		Short: "Show who may do what, or change it: auth, registration, tokens, invites",
		Long: `Policy shows the cluster's policy, or changes one setting of it, at once and on all
nodes: auth open or required, registration open or invite, tokens N (most of one
user), invites N (most that are not used up).`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return usagef("parley admin policy: give KEY and VALUE, or nothing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var a adminArgs
			if len(args) == 2 {
				a = adminArgs{Key: args[0], Value: args[1]}
			}
			return runAct(cmd, r, "policy", a, func(p adminPolicy) error {
				_, err := fmt.Fprintf(r.stdout, "auth %s\nregistration %s\ntokens %d\ninvites %d\n", p.Auth, p.Registration, p.Tokens, p.Invites)
				return err
			})
		},
	}
}

func (r *adminRemote) passwdCmd(said func(map[string]string) error) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "passwd USER",
		Short: "Set a user's password",
		Long: `Passwd gives a user another password, which is typed, or comes from
PARLEY_NEW_PASSWORD or --new-password-file. Whoever was logged in by the old one is
not any more.`,
		Args: exactly("the user's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l := loginFlags{stdin: r.stdin, stderr: r.stderr}
			password, err := l.newPassword("New password of "+visible(args[0])+": ", file, newPasswordEnv)
			if err != nil {
				return err
			}
			return runAct(cmd, r, "user-password", adminArgs{Name: args[0], Secret: string(password)}, said)
		},
	}
	cmd.Flags().StringVar(&file, "new-password-file", "", "`file` with the new password")
	return cmd
}

func (r *adminRemote) inviteAddCmd() *cobra.Command {
	var uses uint32
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Make an invitation code and print it; it cannot be printed again",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runAct(cmd, r, "invite-add", adminArgs{Value: fmt.Sprint(uses)}, func(i adminInvite) error {
				_, err := fmt.Fprintln(r.stdout, i.Code)
				return err
			})
		},
	}
	cmd.Flags().Uint32Var(&uses, "uses", 1, "users that may be created with it")
	return cmd
}

func (r *adminRemote) inviteListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the invitation codes that are not used up, by their ids",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runAct(cmd, r, "invite-list", adminArgs{}, func(res struct {
				Invites []adminInvite `json:"invites"`
			}) error {
				w := tabwriter.NewWriter(r.stdout, 0, 0, 2, ' ', 0)
				for _, i := range res.Invites {
					fmt.Fprintf(w, "%s\t%d left\n", i.ID, i.Uses)
				}
				return w.Flush()
			})
		},
	}
}
