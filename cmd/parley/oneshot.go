package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
)

// oneShot are the commands that ask one thing and end.
func oneShot(a *app) []*cobra.Command {
	return []*cobra.Command{newCreateCmd(a), newDeleteCmd(a), newListCmd(a), newSendCmd(a), newStatusCmd(a), newPasswdCmd(a), newTokenCmd(a)}
}

// question is a one-shot command's flags and output.
type question struct {
	*app
	remote
	json bool
}

func (q *question) add(cmd *cobra.Command) {
	q.remote.add(cmd, timeoutUsage)
	cmd.Flags().BoolVar(&q.json, "json", false, "print one JSON object")
}

// answer prints the answer: obj with --json, otherwise the line.
func (q *question) answer(obj any, format string, args ...any) error {
	if q.json {
		return printJSON(q.stdout, obj)
	}
	_, err := fmt.Fprintf(q.stdout, format+"\n", args...)
	return err
}

// jsonError is how --json reports that there is no answer, or a refusal.
type jsonError struct {
	Error struct {
		Code   parley.Code `json:"code"`
		Name   string      `json:"name"`
		Detail string      `json:"detail"`
	} `json:"error"`
}

// ask runs f against the cluster. With --json, a failure is printed as an
// object too; stderr and the exit status say it in any case.
func (q *question) ask(cmd *cobra.Command, change func(*client.Config), f func(context.Context, *client.Client, *parley.Session) error) error {
	err := q.use(cmd.Context(), change, f)
	if err != nil && q.json && exitCode(err) != exitUsage {
		_ = printJSON(q.stdout, jsonErrorOf(err))
	}
	return err
}

func jsonErrorOf(err error) (e jsonError) {
	e.Error.Code = parley.CodeOf(err)
	e.Error.Name = e.Error.Code.String()
	e.Error.Detail = err.Error()
	return e
}

// do runs a command; a refusal is an error.
func do(ctx context.Context, s *parley.Session, cmd parley.Command) (parley.Result, error) {
	res, err := s.Do(ctx, cmd)
	if err != nil {
		return res, err
	}
	return res, res.Err()
}

func newCreateCmd(a *app) *cobra.Command {
	q := &question{app: a}
	var inviteFile string
	cmd := &cobra.Command{
		Use:   "create USER",
		Short: "Create a user",
		Long: `Create adds a user, with the password in PARLEY_PASSWORD or --password-file. Where
the cluster requires one, it is asked for at a terminal. An invitation code, where
it wants that, is in PARLEY_INVITE or --invite-file.`,
		Args: exactly("the user's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			user := parley.CreateUser{Name: args[0]}
			var err error
			if user.Password, err = secret(q.login.passwordFile, passwordEnv); err != nil {
				return err
			}
			if user.Invite, err = secret(inviteFile, inviteEnv); err != nil {
				return err
			}
			return q.ask(cmd, q.login.nobody, func(ctx context.Context, c *client.Client, s *parley.Session) error {
				if err := q.askPassword(ctx, c, &user); err != nil {
					return err
				}
				res, err := do(ctx, s, user)
				if err != nil {
					return err
				}
				return q.answer(map[string]any{"user": args[0], "incarnation": res.Incarnation}, "created %s", visible(args[0]))
			})
		},
	}
	q.add(cmd)
	cmd.Flags().StringVar(&inviteFile, "invite-file", "", "`file` with an invitation code, as in PARLEY_INVITE")
	return cmd
}

// nobody has a client not log in: the password is that of a user who is not there yet.
func (l *loginFlags) nobody(c *client.Config) {
	c.Credentials = client.Static(parley.Credentials{})
	if l.user == "" {
		c.Credentials = nil
	}
}

// askPassword has somebody at a terminal type the password of a new user, if the
// cluster wants one and there is none.
func (q *question) askPassword(ctx context.Context, c *client.Client, user *parley.CreateUser) error {
	if user.Password != "" || !isTerminal(q.stdin) {
		return nil
	}
	r, err := c.Get(ctx, parley.GetPolicy{})
	if err != nil || r.Policy == nil || r.Policy.Auth == parley.AuthOpen {
		return err
	}
	user.Password, err = q.login.newPassword("Password for "+visible(user.Name)+": ", "", passwordEnv)
	return err
}

func newDeleteCmd(a *app) *cobra.Command {
	q := &question{app: a}
	cmd := &cobra.Command{
		Use:   "delete USER",
		Short: "Delete a user and its mail",
		Args:  exactly("the user's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return q.ask(cmd, nil, func(ctx context.Context, _ *client.Client, s *parley.Session) error {
				if _, err := do(ctx, s, parley.DeleteUser{Name: args[0]}); err != nil {
					return err
				}
				return q.answer(map[string]any{"user": args[0]}, "deleted %s", visible(args[0]))
			})
		},
	}
	q.add(cmd)
	return cmd
}

func newListCmd(a *app) *cobra.Command {
	q := &question{app: a}
	cmd := &cobra.Command{
		Use:   "list [PATTERN]",
		Short: "List users, those that match a regular expression (RE2) if one is given",
		Args:  atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pattern := strings.Join(args, "")
			return q.ask(cmd, nil, func(ctx context.Context, c *client.Client, _ *parley.Session) error {
				names, err := listUsers(ctx, c, pattern)
				if err != nil {
					return err
				}
				if q.json {
					return printJSON(q.stdout, map[string][]string{"users": names})
				}
				var b strings.Builder
				for _, name := range names {
					b.WriteString(visible(name) + "\n")
				}
				_, err = io.WriteString(q.stdout, b.String())
				return err
			})
		},
	}
	q.add(cmd)
	return cmd
}

// listUsers collects all pages of a list.
func listUsers(ctx context.Context, s parley.Service, pattern string) ([]string, error) {
	names := []string{}
	for after := ""; ; after = names[len(names)-1] {
		res, err := s.Get(ctx, parley.Users{Pattern: pattern, After: after})
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			return nil, err
		}
		names = append(names, res.Names...)
		if !res.More || len(res.Names) == 0 {
			return names, nil
		}
	}
}

// maxText bounds what is read from stdin for one message; the cluster's own
// limit is most likely lower.
const maxText = 16 << 20

func newSendCmd(a *app) *cobra.Command {
	q := &question{app: a}
	var from string
	cmd := &cobra.Command{
		Use:   "send USER [TEXT...]",
		Short: "Send a message to a user",
		Long: `Send puts a message into a user's mailbox. The words of the text are joined by
single spaces. Without a text, or with '-', the text is read from standard input
and a newline at its end is dropped.`,
		Args: atLeast("the user's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := textToSend(a.stdin, args[1:])
			if err != nil {
				return err
			}
			return q.ask(cmd, nil, func(ctx context.Context, _ *client.Client, s *parley.Session) error {
				res, err := do(ctx, s, parley.Send{From: from, To: args[0], Body: text})
				if err != nil {
					return err
				}
				return q.answer(map[string]any{"to": args[0], "id": res.Message},
					"sent to %s as message %d", visible(args[0]), res.Message)
			})
		},
	}
	q.add(cmd)
	cmd.Flags().StringVar(&from, "from", "", "sender's `name`, shown to the reader")
	return cmd
}

func textToSend(stdin io.Reader, words []string) (string, error) {
	if len(words) > 0 && !(len(words) == 1 && words[0] == "-") {
		return strings.Join(words, " "), nil
	}
	if len(words) == 0 && isTerminal(stdin) {
		return "", usagef("parley send: the text is missing")
	}
	b, err := io.ReadAll(io.LimitReader(stdin, maxText+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxText {
		return "", fmt.Errorf("the text is longer than %d bytes", maxText)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}
