package tcp

import (
	"context"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// Answers to classic commands.
const (
	answerOK = "ok"
	notOK    = "notok"  // refused, or not understood
	failed   = "error"  // no answer can be had; the command may still take effect
	answered = ""       // the command has queued its own answer
	list     = "list"   // names
	text     = "string" // a message
)

// command runs one command and queues its answer.
func (c *classic) command(ctx context.Context, f wire.Classic) error {
	var answer string
	name := f.Command
	switch f.Command {
	case "create":
		answer = c.create(ctx, f.Args)
	case "connect":
		answer = aside(func() string { return c.connect(ctx, f.Args) })
	case "delete":
		answer = c.delete(ctx, f.Args)
	case "list":
		answer = c.list(ctx, f.Args)
	case "send":
		answer = c.send(ctx, f.Args)
	default:
		answer, name = notOK, "other"
	}
	label := answer
	if answer == answered {
		label = answerOK
	}
	c.g.metrics.commands.WithLabelValues(name, label).Inc()
	if answer == answered {
		return ctx.Err()
	}
	return c.reply(ctx, answer)
}

// do runs a command exactly once, unless its answer cannot be had in time.
func (c *classic) do(ctx context.Context, cmd parley.Command) (parley.Code, error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	session := c.session
	if c.user() != "" {
		session = c.mail.session
	}
	pass, err := c.g.cfg.Gate.Enter(ctx, &c.flow, c.backlog)
	if err != nil {
		return 0, err
	}
	defer pass.Leave()
	r, err := session.Do(ctx, cmd)
	if err != nil {
		c.g.log.Debug("classic command failed", "client", c.nc.RemoteAddr(), "command", cmd.Key(), "error", err)
	}
	return r.Code, err
}

// answer is what to say about the outcome of a command.
func answer(code parley.Code, err error) string {
	switch {
	case err != nil:
		return failed
	case code != parley.CodeOK:
		return notOK
	}
	return answerOK
}

// create creates a user. What is behind a comma is a password, where the cluster
// wants any: elsewhere it would be a part of a name, which has no commas.
func (c *classic) create(ctx context.Context, args string) string {
	name, rest, secrets := strings.Cut(args, ",")
	if !canBeName(name) {
		return notOK
	}
	cmd := parley.CreateUser{Name: name}
	if secrets {
		r, err := c.get(ctx, parley.GetPolicy{})
		if err != nil || r.Policy == nil {
			return answer(r.Code, err)
		}
		invite := r.Policy.Registration == parley.RegistrationInvite
		if r.Policy.Auth == parley.AuthOpen && !invite {
			return notOK
		}
		if i := strings.LastIndexByte(rest, ','); invite && i >= 0 {
			rest, cmd.Invite = rest[:i], parley.Secret(rest[i+1:])
		}
		cmd.Password = parley.Secret(rest)
	}
	return answer(c.do(ctx, cmd))
}

// delete answers ok whether the user existed or not, unless it may not be deleted.
func (c *classic) delete(ctx context.Context, name string) string {
	if !canBeName(name) {
		return notOK
	}
	code, err := c.do(ctx, parley.DeleteUser{Name: name})
	switch {
	case err != nil:
		return failed
	case code != parley.CodeOK && code != parley.CodeNoSuchUser && code != parley.CodeBadName:
		return notOK
	}
	if code == parley.CodeOK && c.user() != "" {
		// Was that the connected user, perhaps under another spelling? The watch will
		// tell, but later than the answer.
		r, err := c.get(ctx, parley.Inbox{User: c.mail.user, Limit: -1})
		if err == nil && (r.Code != parley.CodeOK || r.Cursor.Incarnation != c.mail.incarnation) {
			c.disconnect()
		}
	}
	return answerOK
}

// send sends a message in the name of the connected user. Its text is everything
// behind the first comma.
func (c *classic) send(ctx context.Context, args string) string {
	to, body, ok := strings.Cut(args, ",")
	if !ok || body == "" || !canBeName(to) {
		return notOK
	}
	return answer(c.do(ctx, parley.Send{From: c.user(), To: to, Body: body}))
}

// list queues the names that match a pattern, page by page.
func (c *classic) list(ctx context.Context, pattern string) string {
	q := parley.Users{Pattern: pattern}
	for first := true; ; first = false {
		r, err := c.get(ctx, q)
		if err != nil || r.Code != parley.CodeOK {
			return answer(r.Code, err)
		}
		if first || len(r.Names) > 0 {
			if c.out.add(ctx, wire.AppendClassicList(nil, list, r.Names), nil) != nil {
				return answered // nobody is there to be told
			}
		}
		if !r.More || len(r.Names) == 0 {
			return answered
		}
		q.After, c.backlog = r.Names[len(r.Names)-1], true
	}
}

// connect makes the connection one of the user: it queues the mail that is
// there, then the answer, and from then on what comes. What is behind a comma is
// the user's password.
func (c *classic) connect(ctx context.Context, args string) string {
	name, password, secret := strings.Cut(args, ",")
	svc := c.g.cfg.Service
	var r parley.Result
	lookup, cancel := c.within(ctx)
	err := c.g.cfg.Gate.Turn(lookup, &c.flow, c.backlog)
	if err != nil {
		cancel()
		return failed
	}
	c.backlog = false // it has had its turn, with all that belongs to it
	err = retry(lookup, func() (err error) {
		if secret {
			if svc, err = c.login(lookup, name, password); err != nil {
				return err
			}
		}
		r, err = svc.Get(lookup, parley.Inbox{User: name, Limit: -1})
		return err
	})
	cancel()
	if code := parley.CodeOf(err); code != parley.CodeOK && code.IsAnswer() {
		return notOK
	}
	if err != nil || r.Code != parley.CodeOK {
		return answer(r.Code, err)
	}
	c.disconnect()
	c.mail = startMail(ctx, c, name, svc, r)
	if err := c.caughtUp(ctx, c.mail); err != nil {
		c.disconnect()
		if parley.CodeOf(err).IsAnswer() { // the user has gone, or the login
			return notOK
		}
		return failed
	}
	return answered
}

// login is the service as a user sees it. The error is an answer's if the user and
// the password do not fit.
func (c *classic) login(ctx context.Context, user, password string) (parley.Service, error) {
	if c.g.cfg.Login == nil || password == "" {
		return nil, parley.Errorf(parley.CodeUnauthenticated, "there are no passwords here")
	}
	address, _, err := net.SplitHostPort(c.nc.RemoteAddr().String())
	if err != nil {
		address = c.nc.RemoteAddr().String()
	}
	svc, _, err := c.g.cfg.Login(ctx, parley.Credentials{User: user, Password: parley.Secret(password), Address: address})
	return svc, err
}

// aside runs f on a goroutine of its own. A stack that has grown shrinks only as
// memory is collected, and most connections do nothing after this but wait: theirs
// had better not grow.
func aside(f func() string) (answer string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		answer = f()
	}()
	<-done
	return answer
}

// caughtUp waits until the mail that was there at the connect has been queued,
// and the answer behind it.
func (c *classic) caughtUp(ctx context.Context, m *mail) error {
	const often, seldom = 100 * time.Millisecond, 2 * time.Second
	pause := often
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-m.caughtUp:
			return nil
		case <-m.ended:
			select {
			case <-m.caughtUp: // the user has gone, but behind the answer
				return nil
			default:
				return m.err
			}
		case <-timer.C:
			pause = min(2*pause, seldom)
			timer.Reset(pause)
		}
		// Slow client, no leader, or nothing left to wait for: the rest may have been
		// acknowledged through another connection.
		r, err := c.get(ctx, parley.Inbox{User: m.user, Limit: -1})
		switch {
		case err != nil && m.withhold():
			return err
		case err != nil: // the answer came just before
			return nil
		case r.Cursor.Incarnation == m.incarnation && r.Cursor.ID >= m.target:
			if err := m.sayOK(ctx); err != nil {
				return err
			}
		}
	}
}

// canBeName turns away at once what no service accepts as a user's name. In
// particular a deletion of such a user is an error, not one of nobody.
func canBeName(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return r == ',' || unicode.IsSpace(r) || !unicode.IsGraphic(r)
	})
}
