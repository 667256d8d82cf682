// Package account decides who may do what. Its [Guard] stands before a cluster's
// service and hands out services that are bound to whoever uses them: to
// anybody, to a user that has logged in, or to an administrator. Gateways are
// given nothing else, so that they have nothing to forget.
//
// What changes the state is decided once more by the state machine, at the
// command's place in the log (see package fsm), so that it cannot race with a
// change of a password, a token or the policy. Here is decided what the state
// machine does not see: reading, the scopes of tokens, and passwords, which are
// hashed before they go any further.
package account

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/fair"
)

// Cluster is what a guard stands before: a service, and what the node that
// provides it knows of accounts. The latter reflects all that an answer of the
// service's Get has reflected before.
type Cluster interface {
	parley.Service
	// Policy is the policy in force.
	Policy() parley.Policy
	// Account is what there is about a user's credentials.
	Account(name string) (parley.Account, error)
	// SessionsOf is how many sessions are open that a user has opened once logged in.
	SessionsOf(user parley.Incarnation) int
	// Revision changes whenever an account or the policy has changed.
	Revision() uint64
}

// Config configures a [Guard].
type Config struct {
	// Cluster is what is guarded. Required.
	Cluster Cluster
	// MinPassword and MaxPassword are the least and most bytes of a new password;
	// default 8 and 256. Older ones stay valid.
	MinPassword, MaxPassword int
	// Params is what new passwords cost, and others as soon as they are used;
	// default 19 MiB, 2 passes.
	Params Params
	// Hashes is how many passwords are hashed at a time, each in the memory that
	// Params says and on one processor; default half the processors, at least 1 and
	// at most 2.
	Hashes int
	// MaxWaiting is how many logins and new passwords may wait for that; further ones
	// are turned away as overload. From one address a quarter of it. Default 64.
	MaxWaiting int
	// MaxDelay is the longest that a login waits because of failed ones from its
	// address or for its account; default 2 s. More makes guessing slower, and
	// annoys whoever somebody tries to annoy. Never more than that: nobody is locked
	// out.
	MaxDelay time.Duration
	// Sends is how many messages a second a user who has logged in may send by this
	// node, and how many at once; 0: there is no such limit.
	Sends int
	// Sessions is how many sessions a user who has logged in may have open, in the
	// cluster; 0: there is no such limit. Those opened in the same moment are
	// not counted yet: what must not be exceeded is the limit of all sessions, which
	// the state machine keeps.
	Sessions int
	// Forget is how long failed logins are remembered; default 5 min.
	Forget time.Duration
	// Sweep is how soon a watch ends, at the latest, after what allowed it has come
	// to an end; default 1 s. No message is brought after that in any case.
	Sweep time.Duration
	// Logger; nil: none. It is told about failed logins, and never of secrets.
	Logger *slog.Logger
	// Metrics; nil: none.
	Metrics prometheus.Registerer
}

func (c *Config) setDefaults() {
	orDefault(&c.MinPassword, 8)
	orDefault(&c.MaxPassword, 256)
	orDefault(&c.Hashes, defaultHashes())
	orDefault(&c.MaxWaiting, 64)
	orDefault(&c.MaxDelay, 2*time.Second)
	orDefault(&c.Forget, 5*time.Minute)
	orDefault(&c.Sweep, time.Second)
	c.Params = c.Params.withDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// orDefault gives a setting that is not set its default.
func orDefault[T ~int | ~int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Guard hands out services. It is safe for concurrent use. It owns no goroutine;
// while there are watches, a timer looks after them.
type Guard struct {
	cfg      Config
	cluster  Cluster
	hasher   *hasher
	failures *failures
	known    *known
	metrics  metrics
	sends    *fair.Rates[string] // of users who have logged in, by their key

	mu      sync.Mutex
	watches map[*watch]struct{}
	sweeper *time.Timer // runs while there are watches
	swept   uint64      // revision at the last sweep, plus 1
}

// New returns a guard.
func New(cfg Config) *Guard {
	cfg.setDefaults()
	return &Guard{
		cfg: cfg, cluster: cfg.Cluster, hasher: newHasher(cfg), failures: newFailures(cfg), known: newKnown(), sends: fair.NewRates[string](cfg.Sends, cfg.Sends),
		metrics: newMetrics(cfg.Metrics), watches: make(map[*watch]struct{}),
	}
}

// Anybody is the service for those who have not logged in.
func (g *Guard) Anybody() parley.Service { return &service{g: g} }

// Admin is the service for an administrator: all users, the policy and the
// invitations, but nobody's mail. Whoever is handed it must have been found to be
// one.
func (g *Guard) Admin() parley.Service {
	return &service{g: g, actor: &parley.Actor{Admin: true}}
}

var _ parley.Login = (*Guard)(nil).Login

// Login implements [parley.Login].
//
// It looks at what the node knows. Only if that does not fit the credentials it
// makes sure that nothing newer is known elsewhere: the service that it returns
// looks again each time anyway.
func (g *Guard) Login(ctx context.Context, c parley.Credentials) (svc parley.Service, id parley.Identity, err error) {
	var s *service
	switch {
	case c.Token != "":
		s, id, err = g.byToken(ctx, c)
	case c.Password != "":
		s, id, err = g.byPassword(ctx, c)
	default:
		s, id, err = g.byName(ctx, c)
	}
	if err == nil && c.User != "" && s.actor != nil && !s.self(c.User) {
		err = errWrong // a token of somebody else
	}
	g.metrics.login(err)
	if err != nil {
		if errors.Is(err, errWrong) {
			g.cfg.Logger.Info("login failed", "user", c.User, "address", c.Address)
		}
		return nil, parley.Identity{}, err
	}
	return s, id, nil
}

// errWrong is all that somebody is told whose credentials are wrong.
var errWrong = parley.Errorf(parley.CodeUnauthenticated, "the user, the password or the token is wrong, or a password is needed")

// byName is the login of a user that has no password.
func (g *Guard) byName(ctx context.Context, c parley.Credentials) (*service, parley.Identity, error) {
	a, err := g.account(ctx, c.User)
	switch {
	case err != nil:
		return nil, parley.Identity{}, err
	case g.cluster.Policy().Auth != parley.AuthOpen || a.Verifier != "":
		return nil, parley.Identity{}, errWrong
	case a.Key == "":
		return nil, parley.Identity{}, parley.Errorf(parley.CodeNoSuchUser, "no user is named %.80q", c.User)
	}
	return &service{g: g}, parley.Identity{User: a.Name, Incarnation: a.Incarnation}, nil
}

func (g *Guard) byPassword(ctx context.Context, c parley.Credentials) (*service, parley.Identity, error) {
	if s := g.known.find(c); s != nil && s.check() == nil {
		return s, s.identity(time.Time{}), nil
	}
	a, err := g.verify(ctx, c)
	if err != nil {
		return nil, parley.Identity{}, err
	}
	g.rehash(ctx, a, c.Password)
	s := &service{g: g, key: a.Key, actor: &parley.Actor{User: a.Name, Incarnation: a.Incarnation, Credential: a.Changed}}
	g.known.add(c, s)
	return s, s.identity(time.Time{}), nil
}

// verify finds the account that the name and password are of. It takes as long
// for a user that there is not.
func (g *Guard) verify(ctx context.Context, c parley.Credentials) (parley.Account, error) {
	leave, err := g.failures.enter(ctx, c)
	if err != nil {
		return parley.Account{}, err
	}
	defer leave()
	a, err := g.cluster.Account(c.User)
	if err != nil {
		return a, err
	}
	right, err := g.hasher.verify(ctx, a.Verifier, c.Password)
	if err == nil && !right {
		tried := a.Verifier
		if a, err = g.account(ctx, c.User); err == nil && a.Verifier != tried {
			right, err = g.hasher.verify(ctx, a.Verifier, c.Password)
		}
	}
	if err == nil && !right {
		g.failures.add(c)
		err = errWrong
	}
	return a, err
}

// rehash stores the password under today's parameters, if it was stored under
// others. It is no misfortune if that fails.
func (g *Guard) rehash(ctx context.Context, a parley.Account, password parley.Secret) {
	if p, _, _, err := parseVerifier(a.Verifier); err != nil || p == g.cfg.Params {
		return
	}
	verifier, err := g.hasher.hash(ctx, password)
	if err == nil {
		admin := &parley.Actor{Admin: true}
		c := parley.StorePassword{User: a.Name, Verifier: verifier, Was: a.Changed, Rehash: true}
		_, err = parley.Do(ctx, g.cluster, parley.Request{Command: c, As: admin})
	}
	if err != nil {
		g.cfg.Logger.Debug("password not hashed anew", "user", a.Name, "error", err)
	}
}

func (g *Guard) byToken(ctx context.Context, c parley.Credentials) (*service, parley.Identity, error) {
	user, hash, err := parley.ParseToken(c.Token)
	if err != nil {
		return nil, parley.Identity{}, errWrong
	}
	a, err := g.cluster.Account(user)
	t := findToken(&a, hash)
	if err == nil && t == nil {
		leave, err := g.failures.enter(ctx, c)
		if err != nil {
			return nil, parley.Identity{}, err
		}
		defer leave()
		if a, err = g.account(ctx, user); err != nil {
			return nil, parley.Identity{}, err
		}
		if t = findToken(&a, hash); t == nil {
			g.failures.add(c)
		}
	}
	if err != nil || t == nil {
		return nil, parley.Identity{}, errors.Join(err, errWrongIf(err == nil))
	}
	s := &service{
		g: g, key: a.Key, token: true, scope: t.Scope, expires: t.Expires,
		actor: &parley.Actor{User: a.Name, Incarnation: a.Incarnation, Credential: uint64(hash.ID())},
	}
	return s, s.identity(t.Expires), nil
}

func errWrongIf(wrong bool) error {
	if wrong {
		return errWrong
	}
	return nil
}

// account is what the whole cluster knows about a user.
func (g *Guard) account(ctx context.Context, user string) (parley.Account, error) {
	if _, err := g.cluster.Get(ctx, parley.Inbox{User: user, Limit: -1}); err != nil {
		return parley.Account{}, err
	}
	return g.cluster.Account(user)
}
