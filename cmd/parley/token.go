package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
)

func newTokenCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke tokens, with which programs log in",
		Long: `A token lets a program act as a user, as far as its scope goes and until it
expires or is revoked. Commands take it from PARLEY_TOKEN or --token-file.`,
		Args: exactly("what to do: issue, list or revoke"),
		RunE: func(_ *cobra.Command, args []string) error { return usagef("there is no 'parley token %s'", args[0]) },
	}
	cmd.AddCommand(newTokenIssueCmd(a), newTokenListCmd(a), newTokenRevokeCmd(a))
	return cmd
}

// owner is whose tokens a command is about: who logs in.
func (q *question) owner() (*parley.Credentials, error) {
	who, err := q.login.credentials(nil)
	if err != nil {
		return nil, err
	}
	if who != nil && who.User == "" {
		who.User, _, err = parley.ParseToken(who.Token)
	}
	if who == nil && err == nil {
		err = usagef("whose tokens? Give --user")
	}
	return who, err
}

// about runs f as the user whose tokens it is about.
func (q *question) about(cmd *cobra.Command, f func(ctx context.Context, user string, c *client.Client, s *parley.Session) error) error {
	who, err := q.owner()
	if err != nil {
		return err
	}
	return q.ask(cmd, func(c *client.Config) { c.Credentials = client.Static(*who) },
		func(ctx context.Context, c *client.Client, s *parley.Session) error { return f(ctx, who.User, c, s) })
}

func newTokenIssueCmd(a *app) *cobra.Command {
	q := &question{app: a}
	var scope, label string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "issue",
		Short: "Make a token and print it; it cannot be printed again",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := parley.Token{Label: label}
			var err error
			if t.Scope, err = parley.ParseScope(scope); err != nil {
				return usagef("--scope: %w", err)
			}
			if expires < 0 {
				return usagef("--expires: %v must be more than nothing", expires)
			}
			if expires > 0 {
				t.Expires = time.Now().Add(expires)
			}
			return q.about(cmd, func(ctx context.Context, user string, _ *client.Client, s *parley.Session) error {
				text, hash := parley.NewToken(user)
				t.Hash = hash
				if _, err := do(ctx, s, parley.AddToken{User: user, Token: t}); err != nil {
					return err
				}
				return q.answer(map[string]any{"user": user, "id": hash.ID().String(), "token": string(text)}, "%s", string(text))
			})
		},
	}
	q.add(cmd)
	f := cmd.Flags()
	f.StringVar(&scope, "scope", parley.ScopeFull.String(), "what it is good for: full, send-only or read-only")
	f.StringVar(&label, "label", "", "what it is for, for `people`; at most 64 bytes")
	f.DurationVar(&expires, "expires", 0, "`time` after which it ends; 0: never")
	return cmd
}

// jsonToken is a token as --json prints it.
type jsonToken struct {
	ID      string     `json:"id"`
	Scope   string     `json:"scope"`
	Label   string     `json:"label"`
	Expires *time.Time `json:"expires,omitempty"`
}

func newTokenListCmd(a *app) *cobra.Command {
	q := &question{app: a}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List a user's tokens",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return q.about(cmd, func(ctx context.Context, user string, c *client.Client, _ *parley.Session) error {
				r, err := c.Get(ctx, parley.Tokens{User: user})
				if err == nil {
					err = r.Err()
				}
				if err != nil {
					return err
				}
				return q.printTokens(r.Tokens)
			})
		},
	}
	q.add(cmd)
	return cmd
}

func (q *question) printTokens(tokens []parley.Token) error {
	list := []jsonToken{}
	for _, t := range tokens {
		j := jsonToken{ID: t.Hash.ID().String(), Scope: t.Scope.String(), Label: t.Label}
		if !t.Expires.IsZero() {
			j.Expires = &t.Expires
		}
		list = append(list, j)
	}
	if q.json {
		return printJSON(q.stdout, map[string]any{"tokens": list})
	}
	w := tabwriter.NewWriter(q.stdout, 0, 0, 2, ' ', 0)
	for _, t := range list {
		expires := "never"
		if t.Expires != nil {
			expires = t.Expires.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.ID, t.Scope, expires, visible(t.Label))
	}
	return w.Flush()
}

func newTokenRevokeCmd(a *app) *cobra.Command {
	q := &question{app: a}
	var all bool
	cmd := &cobra.Command{
		Use:   "revoke [ID]",
		Short: "Make a token invalid",
		Args:  atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var id parley.TokenID
			var err error
			switch {
			case all == (len(args) > 0):
				return usagef("parley token revoke: give ID, as 'parley token list' shows it, or --all")
			case !all:
				if id, err = parley.ParseTokenID(args[0]); err != nil {
					return usagef("%w", err)
				}
			}
			return q.about(cmd, func(ctx context.Context, user string, _ *client.Client, s *parley.Session) error {
				if _, err := do(ctx, s, parley.RevokeToken{User: user, ID: id}); err != nil {
					return err
				}
				return q.answer(map[string]any{"user": user}, "revoked")
			})
		},
	}
	q.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all of the user's")
	return cmd
}
