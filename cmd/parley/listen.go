package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
)

// jsonMessage is a message as --json prints it.
type jsonMessage struct {
	ID   parley.MessageID `json:"id"`
	From string           `json:"from"`
	Body string           `json:"body"`
	Time time.Time        `json:"time"`
}

// listener is the listen command.
type listener struct {
	*app
	remote
	json  bool
	count uint64
	drain bool
	quiet bool
	seen  bool // has been connected
}

func newListenCmd(a *app) *cobra.Command {
	l := &listener{app: a}
	cmd := &cobra.Command{
		Use:   "listen USER",
		Short: "Print a user's messages as they come, and acknowledge them",
		Long: `Listen prints the unread messages of a user, one per line, and then new ones as
they come. A message is acknowledged after it has been printed: it will not be
shown again. What was printed but not acknowledged when the program is killed is
shown again by the next 'parley listen'.

It goes on while nodes fail, and ends with Ctrl-C (exit status 0), when the user
is deleted (1), or as --count and --drain say.`,
		Args: exactly("the user's name"),
		RunE: func(cmd *cobra.Command, args []string) error { return l.run(cmd.Context(), args[0]) },
	}
	l.remote.add(cmd, "give up when the mailbox cannot be opened within this `time`, with exit status 3")
	f := cmd.Flags()
	f.BoolVar(&l.json, "json", false, "print one JSON object per line: id, from, body, time")
	f.Uint64Var(&l.count, "count", 0, "end after this `number` of messages; 0: never")
	f.BoolVar(&l.drain, "drain", false, "end when all messages that were unread at the start have been printed")
	f.BoolVar(&l.quiet, "quiet", false, "do not report lost connections on stderr")
	return cmd
}

func (l *listener) run(ctx context.Context, user string) error {
	c, err := l.dial(func(cfg *client.Config) { cfg.Events = l.report })
	if err != nil {
		return err
	}
	defer c.Close()
	opening, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	box, err := mailbox(opening, c, user)
	if parley.CodeOf(err) == parley.CodeNoQuorum {
		return l.unanswered(c, err)
	}
	if err != nil {
		return err
	}
	end := box.Cursor
	end.ID += parley.MessageID(box.Unread)
	if l.drain && box.Unread == 0 {
		return nil
	}
	last, err := l.printUntil(ctx, c, user, end)
	if l.count > 0 || l.drain { // ended by break: the last one is not acknowledged yet
		err = errors.Join(err, acknowledge(ctx, c, user, last, l.timeout))
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // Ctrl-C is how one ends it
	}
	return err
}

// errReadElsewhere ends the printing of messages that another reader has taken.
var errReadElsewhere = errors.New("read elsewhere")

// printUntil is print that, with --drain, also ends when another reader has
// taken the rest of what it waits for.
func (l *listener) printUntil(ctx context.Context, c *client.Client, user string, end parley.Cursor) (parley.Cursor, error) {
	if !l.drain {
		return l.print(ctx, c, user, end)
	}
	ctx, stop := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			box, err := mailbox(ctx, c, user)
			if err == nil && box.Cursor.Incarnation == end.Incarnation && box.Cursor.ID >= end.ID {
				stop(errReadElsewhere)
			}
		}
	})
	last, err := l.print(ctx, c, user, end)
	stop(nil)
	looking.Wait()
	if errors.Is(err, errReadElsewhere) {
		err = nil
	}
	return last, err
}

// print prints messages until it is time to end, and returns the position of
// the last one printed.
func (l *listener) print(ctx context.Context, c *client.Client, user string, end parley.Cursor) (parley.Cursor, error) {
	var last parley.Cursor
	var n uint64
	for m, err := range c.Receive(ctx, user, parley.Cursor{}) {
		if err != nil {
			return last, err
		}
		if err := printMessage(l.stdout, m, l.json); err != nil {
			return last, err
		}
		last = m.Cursor
		n++
		if n == l.count || l.drain && (m.Incarnation != end.Incarnation || m.ID >= end.ID) {
			return last, nil
		}
	}
	return last, nil
}

// report tells people on stderr of failovers. The client calls it one event at
// a time.
func (l *listener) report(e client.Event) {
	failover := l.seen
	l.seen = l.seen || e.Kind == client.Connected
	if l.quiet || !failover || e.Kind == client.Retrying {
		return
	}
	fmt.Fprintf(l.stderr, "parley: %s\n", visible(e.String()))
}

// mailbox asks where a user's mailbox stands.
func mailbox(ctx context.Context, s parley.Service, user string) (parley.Result, error) {
	res, err := s.Get(ctx, parley.Inbox{User: user, Limit: -1})
	if err == nil {
		err = res.Err()
	}
	return res, err
}

// acknowledge says that everything up to a position has been read.
func acknowledge(ctx context.Context, c *client.Client, user string, upTo parley.Cursor, timeout time.Duration) error {
	if upTo.ID == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	res, err := parley.Do(ctx, c, parley.Request{Command: parley.Ack{User: user, UpTo: upTo}})
	if err != nil {
		return err
	}
	return res.Err()
}

// printMessage prints a message on one line.
func printMessage(w io.Writer, m parley.Message, asJSON bool) error {
	if asJSON {
		return printJSON(w, jsonMessage{ID: m.ID, From: m.From, Body: m.Body, Time: m.Time})
	}
	_, err := fmt.Fprintf(w, "%s %s: %s\n", m.Time.Local().Format(time.DateTime), sender(m), visible(m.Body))
	return err
}
