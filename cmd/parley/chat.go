package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
)

// screen is where a chat reads lines and shows what happens: a terminal or a pipe.
type screen interface {
	// lines yields the lines that are typed or piped in. It ends with the input
	// or with ctx; a line that cannot be read comes with an error.
	lines(ctx context.Context) iter.Seq2[string, error]
	// print shows one line. It is safe for concurrent use.
	print(line string)
	// message shows one message. It is safe for concurrent use.
	message(m parley.Message)
	// identity shows as whom one is connected, "" for nobody.
	identity(user string)
	// event shows what happens to the connection.
	event(e client.Event)
	// close gives the terminal back.
	close()
}

// backend is the cluster as a chat uses it.
type backend struct {
	parley.Service
	session *parley.Session
	receive func(ctx context.Context, user string) iter.Seq2[parley.Message, error]
	node    func() (id, addr string)
}

// chat is a conversation.
//
// Commands run one after the other on the goroutine that calls run. While a
// user is connected, one more goroutine shows the user's messages; disconnect
// ends it and waits for it.
type chat struct {
	backend
	screen  screen
	timeout time.Duration

	ended struct{ misunderstood, unanswered bool }

	mu       sync.Mutex
	user     string // connected as; "" for nobody
	shown    parley.Cursor
	progress chan struct{} // closed and replaced when shown moves or the receiver ends
	stop     context.CancelFunc
	stopped  chan struct{} // closed when the receiver has ended
}

func newChatCmd(a *app) *cobra.Command {
	r := &remote{}
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Talk: create, connect, delete, list and send, from a terminal or a pipe",
		Long: `Chat reads commands, one per line:

` + indent(chatHelp) + `

On a terminal the prompt says who you are and which node serves you, and a
failover is shown as it happens. From a pipe, each answer is one plain line;
lines that begin with # are skipped.

Exit status: 0 if every command was understood and answered (a refusal is an
answer), 2 if one was not understood, 3 if one was not answered.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runChat(cmd.Context(), a, r, r.login.user) },
	}
	r.add(cmd, "longest `time` that one command may take")
	cmd.Flags().Lookup("user").Usage = "log in and connect as this `name` at the start; its password is in PARLEY_PASSWORD or --password-file, or is typed"
	return cmd
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

func runChat(ctx context.Context, a *app, r *remote, user string) error {
	if err := r.logIn(); err != nil { // before the terminal is another
		return err
	}
	here, hangUp := context.WithCancel(ctx)
	defer hangUp()
	scr, err := openScreen(a, hangUp)
	if err != nil {
		return err
	}
	defer scr.close()
	c, err := r.dial(func(cfg *client.Config) { cfg.Events = scr.event })
	if err != nil {
		return err
	}
	defer c.Close()
	ch := &chat{
		screen:  scr,
		timeout: r.timeout,
		backend: backend{
			Service: c, session: c.Session(), node: c.Node,
			receive: func(ctx context.Context, user string) iter.Seq2[parley.Message, error] {
				return c.Receive(ctx, user, parley.Cursor{})
			},
		},
	}
	err = ch.run(here, user)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// run holds the conversation until the input ends or quit.
func (c *chat) run(ctx context.Context, user string) error {
	defer closeSession(context.WithoutCancel(ctx), c.session)
	defer c.disconnect()
	c.progress = make(chan struct{})
	if user != "" {
		c.command(ctx, chatCommand{verb: "connect", user: user})
	}
	for line, err := range c.screen.lines(ctx) {
		if err != nil {
			c.ended.misunderstood = true
			c.screen.print("not understood: " + visible(err.Error()))
			continue
		}
		cmd, err := parseChat(line)
		if err != nil {
			c.ended.misunderstood = true
			c.screen.print("not understood: " + visible(err.Error()))
			continue
		}
		if cmd.verb == "quit" {
			break
		}
		if cmd.verb != "" {
			c.command(ctx, cmd)
		}
	}
	c.catchUp(ctx)
	return c.verdict()
}

func (c *chat) verdict() error {
	switch {
	case c.ended.unanswered:
		return &quietError{exitNoAnswer}
	case c.ended.misunderstood:
		return &quietError{exitUsage}
	}
	return nil
}

// command runs one command and prints its answer.
func (c *chat) command(ctx context.Context, cmd chatCommand) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	answer, err := c.answer(ctx, cmd)
	var pe *parley.Error
	switch {
	case err == nil && answer == "": // has been printed
	case err == nil:
		c.screen.print(answer)
	case errors.Is(err, context.Canceled): // hung up
	case errors.As(err, &pe) && pe.Code.IsAnswer():
		c.screen.print("refused: " + visible(err.Error()))
	default:
		c.ended.unanswered = true
		c.screen.print("error: " + visible(err.Error()))
	}
}

// answer runs one command. An empty answer has been printed already.
func (c *chat) answer(ctx context.Context, cmd chatCommand) (string, error) {
	switch cmd.verb {
	case "create":
		_, err := do(ctx, c.session, parley.CreateUser{Name: cmd.user})
		return "ok: created " + visible(cmd.user), err
	case "delete":
		_, err := do(ctx, c.session, parley.DeleteUser{Name: cmd.user})
		return "ok: deleted " + visible(cmd.user), err
	case "list":
		names, err := listUsers(ctx, c, cmd.pattern)
		for i, name := range names {
			names[i] = visible(name)
		}
		return "ok: " + listed(names), err
	case "send":
		res, err := do(ctx, c.session, parley.Send{From: c.name(), To: cmd.user, Body: cmd.text})
		return fmt.Sprintf("ok: sent to %s as message %d", visible(cmd.user), res.Message), err
	case "connect":
		return "", c.connect(ctx, cmd.user)
	case "whoami":
		return c.whoami(), nil
	}
	return chatHelp, nil
}

// listed is "no users", "1 user: a" or "2 users: a, b".
func listed(names []string) string {
	switch len(names) {
	case 0:
		return "no users"
	case 1:
		return "1 user: " + names[0]
	}
	return fmt.Sprintf("%d users: %s", len(names), strings.Join(names, ", "))
}

func (c *chat) whoami() string {
	who, where := "nobody: connect as a user", "no node"
	if name := c.name(); name != "" {
		who = visible(name)
	}
	if id, addr := c.node(); id != "" {
		where = fmt.Sprintf("%s (%s)", visible(id), visible(addr))
	}
	return fmt.Sprintf("ok: you are %s; served by %s", who, where)
}

func (c *chat) name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.user
}

// connect begins to show a user's messages and to send in the user's name. It
// prints its answer itself, before the messages.
func (c *chat) connect(ctx context.Context, user string) error {
	box, err := mailbox(ctx, c, user)
	if err != nil {
		return err
	}
	c.disconnect()
	receiving, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	c.mu.Lock()
	c.user, c.shown = user, box.Cursor
	c.stop, c.stopped = stop, stopped
	c.mu.Unlock()
	c.screen.identity(user)
	c.screen.print(fmt.Sprintf("ok: connected as %s, %d unread", visible(user), box.Unread))
	go func() {
		defer close(stopped)
		c.show(receiving, user)
	}()
	return nil
}

// show prints the messages of a user until ctx ends or the user is deleted.
func (c *chat) show(ctx context.Context, user string) {
	for m, err := range c.receive(ctx, user) {
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.lost(user, err)
			return
		}
		c.screen.message(m)
		c.moved(m.Cursor)
	}
}

// moved notes how far messages have been shown.
func (c *chat) moved(to parley.Cursor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown = to
	close(c.progress)
	c.progress = make(chan struct{})
}

// lost is the end of a receiver that nobody asked to end.
func (c *chat) lost(user string, err error) {
	c.mu.Lock()
	c.user = ""
	close(c.progress)
	c.progress = make(chan struct{})
	c.mu.Unlock()
	c.screen.identity("")
	c.screen.print(fmt.Sprintf("no longer connected as %s: %s", visible(user), visible(err.Error())))
}

// disconnect ends the receiver, if there is one, and waits for it.
func (c *chat) disconnect() {
	c.mu.Lock()
	stop, stopped := c.stop, c.stopped
	c.stop, c.stopped, c.user = nil, nil, ""
	c.mu.Unlock()
	if stop != nil {
		stop()
		<-stopped
	}
}

// catchUp waits until the messages that are in the mailbox now have been shown,
// so that a script that ends with a send to itself sees the message.
func (c *chat) catchUp(ctx context.Context) {
	user := c.name()
	if user == "" || ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	box, err := mailbox(ctx, c, user)
	if err != nil {
		return
	}
	end := box.Cursor.ID + parley.MessageID(box.Unread)
	for {
		c.mu.Lock()
		// What has been acknowledged was shown, if only by an earlier connect.
		shown := max(c.shown.ID, box.Cursor.ID)
		done := c.user == "" || c.shown.Incarnation != box.Cursor.Incarnation || shown >= end
		progress := c.progress
		c.mu.Unlock()
		if done {
			return
		}
		select {
		case <-progress:
		case <-ctx.Done():
			c.ended.unanswered = true
			c.screen.print("error: not all messages arrived in time")
			return
		}
	}
}
