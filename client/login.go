package client

import (
	"context"
	"time"

	"github.com/parley-chat/parley"
)

// loginTime is how long a login may take: the server may let it wait because of
// others that failed.
const loginTime = 12 * time.Second

// Static are credentials that do not change, for [Config.Credentials].
func Static(c parley.Credentials) func(context.Context) (parley.Credentials, error) {
	return func(context.Context) (parley.Credentials, error) { return c, nil }
}

// login logs in on a new connection. That the server refuses it is not an error:
// another server would refuse it, too.
func (c *Client) login(ctx context.Context, l *link) error {
	if c.cfg.Credentials == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	who, err := c.cfg.Credentials(ctx)
	if err != nil {
		return err
	}
	r, err := l.conn.Login(ctx, who)
	if err == nil && r.Code != parley.CodeOK {
		l.denied = parley.Result{Code: r.Code, Detail: r.Detail}
	}
	return err
}

// do sends a command, unless the login was refused.
func (l *link) do(r parley.Request, done func(parley.Result, error)) {
	if l.denied.Code != parley.CodeOK {
		done(l.denied, nil)
		return
	}
	l.conn.Do(r, done)
}

// get asks a query, unless the login was refused.
func (l *link) get(ctx context.Context, q parley.Query) (parley.Result, error) {
	if l.denied.Code != parley.CodeOK {
		return l.denied, nil
	}
	return l.conn.Get(ctx, q)
}
