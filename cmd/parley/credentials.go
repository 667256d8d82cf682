package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
)

// The environment variables of secrets, which are never arguments: those are seen
// by everybody who lists the processes of a machine.
const (
	passwordEnv    = "PARLEY_PASSWORD"
	newPasswordEnv = "PARLEY_NEW_PASSWORD"
	tokenEnv       = "PARLEY_TOKEN"
	inviteEnv      = "PARLEY_INVITE"
)

// loginFlags say who uses the cluster.
type loginFlags struct {
	user         string
	passwordFile string
	tokenFile    string
	stdin        io.Reader
	stderr       io.Writer

	settled bool                // who has been found out
	who     *parley.Credentials // nil: nobody logs in
}

func (l *loginFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.user, "user", "", "log in as this `name`, with the password in PARLEY_PASSWORD or --password-file, or as it is typed")
	f.StringVar(&l.passwordFile, "password-file", "", "`file` with the password")
	f.StringVar(&l.tokenFile, "token-file", "", "`file` with a token to log in with, as in PARLEY_TOKEN")
	cmd.PreRun = func(cmd *cobra.Command, _ []string) { l.stdin, l.stderr = cmd.InOrStdin(), cmd.ErrOrStderr() }
}

// credentials are what to log in with; nil: nobody logs in. needed says whether the
// user has a password, for which somebody is asked only then; nil: it has.
func (l *loginFlags) credentials(needed func() bool) (*parley.Credentials, error) {
	token, err := secret(l.tokenFile, tokenEnv)
	if err != nil || token != "" {
		return &parley.Credentials{User: l.user, Token: token}, err
	}
	if l.user == "" {
		return nil, nil
	}
	password, err := secret(l.passwordFile, passwordEnv)
	if err == nil && password == "" && isTerminal(l.stdin) && (needed == nil || needed()) {
		password, err = l.typed("Password of " + visible(l.user) + ": ")
	}
	return &parley.Credentials{User: l.user, Password: password}, err
}

// typed has somebody type a secret, which is not shown.
func (l *loginFlags) typed(prompt string) (parley.Secret, error) {
	fmt.Fprint(l.stderr, prompt)
	b, err := term.ReadPassword(int(l.stdin.(*os.File).Fd()))
	fmt.Fprintln(l.stderr)
	return parley.Secret(b), err
}

// newPassword takes a password that is to be from a file, the environment, or
// whoever sits at the terminal, who types it twice; "" if there is none of them.
func (l *loginFlags) newPassword(prompt, file, env string) (parley.Secret, error) {
	password, err := secret(file, env)
	if err != nil || password != "" || !isTerminal(l.stdin) {
		return password, err
	}
	if password, err = l.typed(prompt); err != nil || password == "" {
		return "", err
	}
	again, err := l.typed("Once more: ")
	if err == nil && again != password {
		err = errors.New("the two are not the same")
	}
	return password, err
}

// secret reads a secret from a file, or else from the environment.
func secret(file, env string) (parley.Secret, error) {
	if file == "" {
		return parley.Secret(os.Getenv(env)), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", usagef("%w", err)
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" {
		return "", usagef("%s is empty", file)
	}
	return parley.Secret(s), nil
}

func newPasswdCmd(a *app) *cobra.Command {
	q := &question{app: a}
	var newFile string
	cmd := &cobra.Command{
		Use:   "passwd [USER]",
		Short: "Change a user's password",
		Long: `Passwd changes a password. Both are typed, or come from PARLEY_PASSWORD or
--password-file and from PARLEY_NEW_PASSWORD or --new-password-file. Whoever was
logged in by the old one is not any more; tokens stay valid, and are revoked by
'parley token revoke'.

A user without a password, where the cluster is open, gets one: leave the current
one empty.`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.login.user = args[0]
			}
			if q.login.user == "" {
				return usagef("parley passwd: whose? Give USER or --user")
			}
			who, err := q.login.credentials(nil)
			if err != nil {
				return err
			}
			next, err := q.login.newPassword("New password: ", newFile, newPasswordEnv)
			if err != nil {
				return err
			}
			change := parley.SetPassword{User: who.User, Current: who.Password, New: next}
			return q.ask(cmd, func(c *client.Config) { c.Credentials = client.Static(*who) }, func(ctx context.Context, _ *client.Client, s *parley.Session) error {
				if _, err := do(ctx, s, change); err != nil {
					return err
				}
				return q.answer(map[string]any{"user": who.User}, "password of %s changed", visible(who.User))
			})
		},
	}
	q.add(cmd)
	cmd.Flags().StringVar(&newFile, "new-password-file", "", "`file` with the new password, as in PARLEY_NEW_PASSWORD")
	return cmd
}
