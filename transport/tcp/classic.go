package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/fair"
	"github.com/parley-chat/parley/wire"
)

// classic serves one classic connection.
//
// The handler's goroutine reads frames and runs commands, one after the other.
// Others come and go: of the service, with mail for the connected user (mail); one
// that writes while there is something to be written (outbox.run); and one that
// acknowledges while there is something to be acknowledged (reads.run). The
// handler's waits for them all.
type classic struct {
	g       *Gateway
	nc      net.Conn
	in      *wire.ClassicReader
	out     *outbox
	reads   *reads
	session *parley.Session // of anybody; opened by the first command that needs it
	flow    fair.Flow       // in the gate
	backlog bool            // the last frame had come before it was waited for
	mail    *mail           // of the connected user, nil: unconnected
	// queued is up to where the mailboxes of users connected before were queued:
	// what is acknowledged later must not come again when they connect again.
	queued map[parley.Incarnation]parley.MessageID

	first wire.Classic // the frame that has been read already
	bad   error        // what was wrong with it

	cancel  context.CancelFunc // ends all work
	drained func() bool        // ends the waiting for the drain
}

// maxQueued bounds classic.queued.
const maxQueued = 64

func newClassic(g *Gateway, nc net.Conn, in *wire.ClassicReader) *classic {
	c := &classic{g: g, nc: nc, in: in, backlog: true, session: parley.NewSession(g.cfg.Service)}
	c.reads = &reads{
		log: g.log, metrics: &g.metrics, probe: newProbe(nc),
		timeout: g.cfg.CommandTimeout, stall: g.cfg.IdleTimeout, stalled: func() { nc.Close() },
	}
	_, c.reads.exact = nc.(*net.TCPConn)
	c.out = &outbox{nc: nc, timeout: g.cfg.WriteTimeout, limit: g.cfg.Buffered}
	return c
}

// serve serves the connection until the client ends it, a limit does, or ctx.
// Like all that is on the stack while the connection is idle, it is small.
func (c *classic) serve(drain context.Context) {
	ctx := c.begin(drain)
	defer c.release()
	err := c.converse(ctx, drain)
	c.end(drain, err)
}

// begin prepares all but the reading. It returns the context of the work.
func (c *classic) begin(drain context.Context) context.Context {
	// Commands under way when the drain begins are finished; what ends them at
	// once is the end of the connection.
	ctx, cancel := context.WithCancel(context.WithoutCancel(drain))
	c.cancel = cancel
	c.out.written = func(marks []mark, offset int) { c.reads.written(ctx, marks, offset) }
	c.out.failed = func(err error) {
		c.g.log.Debug("cannot write", "client", c.nc.RemoteAddr(), "error", err)
		c.nc.Close() // reading ends too
		cancel()
	}
	return ctx
}

// end brings everything to an end after the conversation has ended with err.
func (c *classic) end(drain context.Context, err error) {
	if !errors.Is(err, io.EOF) && drain.Err() == nil {
		c.g.log.Debug("classic connection ends", "client", c.nc.RemoteAddr(), "error", err)
	}
	c.disconnect()
	c.out.close()
	c.reads.close()
	c.leave(drain)
}

// release ends what the handler must not leave behind, whatever happens.
func (c *classic) release() {
	c.cancel()
	c.drained()
}

// converse runs commands until reading or writing fails or drain ends, and
// returns why. The deadline that ends the reading then also makes half a frame
// look like a whole one, so nothing that was read by then is begun.
func (c *classic) converse(ctx, drain context.Context) error {
	err := c.handle(ctx, drain, c.first, c.bad)
	for err == nil {
		began := time.Now()
		if err = c.in.Wait(); err == nil {
			c.backlog = time.Since(began) < fair.Idle
			err = c.next(ctx, drain)
		}
	}
	return err
}

// next reads and handles a frame.
func (c *classic) next(ctx, drain context.Context) error {
	frame, err := c.in.Next()
	return c.handle(ctx, drain, frame, err)
}

// handle runs the command in a frame, or says that it is none.
func (c *classic) handle(ctx, drain context.Context, frame wire.Classic, err error) error {
	switch {
	case drain.Err() != nil:
		return drain.Err()
	case err == nil:
		return c.command(ctx, frame)
	case errors.Is(err, wire.ErrClassic):
		return c.reply(ctx, notOK)
	}
	return err
}

// leave closes the connection once the client has received what it was sent, if
// it ever does, and settles with the service.
func (c *classic) leave(drain context.Context) {
	patience, timeout := farewell, c.g.cfg.CommandTimeout
	if drain.Err() != nil {
		timeout = min(timeout, farewell)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(drain), patience+timeout)
	defer cancel()
	c.reads.settle(ctx, patience)
	if drain.Err() != nil {
		hangUp(c.nc)
	}
	c.nc.Close()
	c.reads.acknowledge(ctx)
	if err := c.session.Close(ctx); err != nil {
		c.g.log.Debug("session left to expire", "client", c.nc.RemoteAddr(), "error", err)
	}
}

// within returns a context with the deadline of one command.
func (c *classic) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.g.cfg.CommandTimeout)
}

// get asks until there is an answer or the time of a command is up.
func (c *classic) get(ctx context.Context, q parley.Query) (r parley.Result, err error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	if err := c.g.cfg.Gate.Turn(ctx, &c.flow, c.backlog); err != nil {
		return r, err
	}
	err = retry(ctx, func() error {
		r, err = c.service().Get(ctx, q)
		return err
	})
	return r, err
}

// service is the service as the connected user sees it, or as anybody does.
func (c *classic) service() parley.Service {
	if c.user() != "" {
		return c.mail.svc
	}
	return c.g.cfg.Service
}

// reply queues an answer without arguments.
func (c *classic) reply(ctx context.Context, answer string) error {
	return c.out.add(ctx, wire.AppendClassic(nil, answer, ""), nil)
}

// user is the name of the connected user, "" if there is none (any more).
func (c *classic) user() string {
	if c.mail == nil {
		return ""
	}
	select {
	case <-c.mail.ended:
		c.logout()
		c.mail = nil
		return ""
	default:
		return c.mail.user
	}
}

// disconnect makes the connection one without a user. No mail is queued afterwards.
func (c *classic) disconnect() {
	if c.mail != nil {
		c.mail.stop()
		<-c.mail.ended
		if len(c.queued) >= maxQueued {
			c.queued = nil
		}
		if c.queued == nil {
			c.queued = make(map[parley.Incarnation]parley.MessageID)
		}
		c.queued[c.mail.incarnation] = c.mail.after.ID
		c.logout()
		c.mail = nil
	}
}

// logout closes the session of a user that had logged in.
func (c *classic) logout() {
	if c.mail.session == c.session {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(c.g.cfg.CommandTimeout, farewell))
	defer cancel()
	if err := c.mail.session.Close(ctx); err != nil {
		c.g.log.Debug("session left to expire", "client", c.nc.RemoteAddr(), "error", err)
	}
}
