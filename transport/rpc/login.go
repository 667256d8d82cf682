package rpc

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/parley-chat/parley"
)

// caller is somebody who calls: the service as he sees it, and the session of his
// commands that have no number of their own.
type caller struct {
	svc      parley.Service
	user     string // the name as created, "" of anybody
	sessions sessions
}

// callers remembers who has logged in with what, so that a client which sends a
// password with each call need not wait each time, and its commands have a
// session. What they logged in with cannot be read from it: it keeps what a key
// makes of it that is in memory only.
type callers struct {
	g   *Gateway
	key [sha256.Size]byte

	mu  sync.Mutex
	all map[[sha256.Size]byte]*caller
}

// maxCallers bounds callers.all. A session lies idle for each, at most.
const maxCallers = 1024

func newCallers(g *Gateway) *callers {
	c := &callers{g: g, all: make(map[[sha256.Size]byte]*caller)}
	rand.Read(c.key[:]) //nolint:errcheck // it never fails
	return c
}

// login finds who the credentials are of.
func (c *callers) login(ctx context.Context, who parley.Credentials) (*caller, error) {
	if c.g.cfg.Login == nil {
		return nil, newStatus(parley.CodeUnsupported, "there are no logins here")
	}
	sum := c.sum(who)
	c.mu.Lock()
	known := c.all[sum]
	c.mu.Unlock()
	if known != nil {
		// It may be over: any answer tells, and this one is to be had here.
		if r, err := known.svc.Get(ctx, parley.Inbox{User: known.user, Limit: -1}); err == nil && r.Code != parley.CodeUnauthenticated {
			return known, nil
		}
		c.drop(sum, known)
	}
	who.Address = address(ctx)
	svc, id, err := c.g.cfg.Login(ctx, who)
	if err != nil {
		return nil, failure(ctx, err)
	}
	fresh := &caller{svc: svc, user: id.User, sessions: newSessions(svc, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.all[sum]; now != nil {
		return now, nil
	}
	for s, old := range c.all { // any one
		if len(c.all) < maxCallers {
			break
		}
		delete(c.all, s)
		c.close(old)
	}
	c.all[sum] = fresh
	return fresh, nil
}

// drop forgets somebody whose login is over.
func (c *callers) drop(sum [sha256.Size]byte, old *caller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all[sum] == old {
		delete(c.all, sum)
		c.close(old)
	}
}

// close closes somebody's session. It is called by calls, for which the gateway
// waits.
func (c *callers) close(old *caller) {
	c.g.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), farewell)
		defer cancel()
		old.sessions.close(ctx, c.g.log)
	})
}

// closeAll closes all sessions at the end.
func (c *callers) closeAll(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, old := range c.all {
		old.sessions.close(ctx, c.g.log)
	}
}

func (c *callers) sum(who parley.Credentials) [sha256.Size]byte {
	m := hmac.New(sha256.New, c.key[:])
	for _, s := range []string{who.User, string(who.Password), string(who.Token)} {
		m.Write([]byte(s)) //nolint:errcheck // it never fails
		m.Write([]byte{0}) //nolint:errcheck // it never fails
	}
	return [sha256.Size]byte(m.Sum(nil))
}

// identify says who makes a call: whom its metadata name, or else, for the
// exercise's service, whom its connection has connected as, or else anybody.
func (g *Gateway) identify(ctx context.Context, c *call) error {
	who, there, err := authorization(ctx)
	switch {
	case err != nil:
		return err
	case there:
		c.caller, err = g.callers.login(ctx, who)
	case strings.HasPrefix(c.method, legacyPrefix):
		c.caller = connOf(ctx).get()
	}
	if c.caller == nil {
		c.caller = g.anybody
	}
	return err
}

// authorization reads a call's metadata.
func authorization(ctx context.Context) (who parley.Credentials, there bool, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) == 0 {
		return who, false, nil
	}
	bad := newStatus(parley.CodeUnauthenticated, "authorization is none of 'Bearer <token>' and 'Basic <base64 of user:password>'")
	kind, value, ok := strings.Cut(values[0], " ")
	switch {
	case !ok || len(values) > 1:
		return who, true, bad
	case strings.EqualFold(kind, "Bearer"):
		who.Token = parley.Secret(value)
		return who, true, nil
	case strings.EqualFold(kind, "Basic"):
		b, err := base64.StdEncoding.DecodeString(value)
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok {
			return who, true, bad
		}
		who.User, who.Password = user, parley.Secret(password)
		return who, true, nil
	}
	return who, true, bad
}

// address is where a call comes from, without port.
func address(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// connection is what the gateway keeps about a connection: who it has connected
// as, by the exercise's service.
type connection struct {
	mu     sync.Mutex
	caller *caller // nil: nobody
}

type connectionKey struct{}

func connOf(ctx context.Context) *connection {
	c, ok := ctx.Value(connectionKey{}).(*connection)
	if !ok { // as there is no way around TagConn
		panic("rpc: a call without a connection")
	}
	return c
}

func (c *connection) get() *caller {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caller
}

func (c *connection) set(who *caller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caller = who
}
