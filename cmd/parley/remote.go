package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/certs"
	"github.com/parley-chat/parley/client"
)

// clientPort is where nodes listen for clients unless told otherwise.
const clientPort = "3000"

// remote is how a command reaches the cluster: the flags that all client
// commands have.
type remote struct {
	servers []string
	timeout time.Duration
	tls     bool
	ca      string
	login   loginFlags
}

// add defines the flags. what says what the time-out is about.
func (r *remote) add(cmd *cobra.Command, what string) {
	f := cmd.Flags()
	f.StringSliceVar(&r.servers, "servers", []string{"127.0.0.1:3000", "127.0.0.1:3001", "127.0.0.1:3002"},
		"client `addresses` of the nodes; one is enough to find the others")
	f.DurationVar(&r.timeout, "timeout", 10*time.Second, what)
	f.BoolVar(&r.tls, "tls", false, "use TLS and trust the system's authorities")
	r.login.add(cmd)
	f.StringVar(&r.ca, "ca", "", "use TLS and trust the authorities in this `file`, such as the cluster's ca.pem")
}

const timeoutUsage = "give up after this `time`, with exit status 3"

// dial returns a client; it does not wait for a connection. change may be nil.
func (r *remote) dial(change func(*client.Config)) (*client.Client, error) {
	cfg, err := r.config()
	if err != nil {
		return nil, err
	}
	if change != nil {
		change(&cfg)
	}
	if cfg.Credentials == nil {
		if err := r.logIn(); err != nil {
			return nil, err
		}
		if r.login.who != nil {
			cfg.Credentials = client.Static(*r.login.who)
		}
	}
	return client.New(cfg)
}

// config is what the flags say of a client, but for its login.
func (r *remote) config() (cfg client.Config, err error) {
	if cfg.Servers, err = serverAddresses(r.servers); err != nil {
		return cfg, err
	}
	if r.timeout <= 0 {
		return cfg, usagef("--timeout: %v must be more than nothing", r.timeout)
	}
	cfg.TLS, err = r.tlsConfig()
	return cfg, err
}

// logIn finds out, once, what to log in with. Somebody may be asked for a password.
func (r *remote) logIn() (err error) {
	if !r.login.settled {
		r.login.who, err = r.login.credentials(r.hasPassword)
		r.login.settled = err == nil
	}
	return err
}

// hasPassword asks the cluster whether a login needs one.
func (r *remote) hasPassword() bool {
	cfg, err := r.config()
	if err != nil {
		return false // it is said later
	}
	cfg.Credentials = client.Static(parley.Credentials{User: r.login.user})
	c, err := client.New(cfg)
	if err != nil {
		return false
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	answer, err := c.Get(ctx, parley.Inbox{User: r.login.user, Limit: -1})
	return err == nil && answer.Code == parley.CodeUnauthenticated
}

func (r *remote) tlsConfig() (*tls.Config, error) {
	if !r.tls && r.ca == "" {
		return nil, nil
	}
	cfg, err := certs.ClientConfig(r.ca)
	if err != nil {
		return nil, usagef("--ca: %w", err)
	}
	return cfg, nil
}

// serverAddresses checks host:port addresses and adds the usual port where
// there is none.
func serverAddresses(list []string) ([]string, error) {
	var out []string
	for _, s := range list {
		s = strings.TrimSpace(s)
		if s == "" {
			continue
		}
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host, port = strings.Trim(s, "[]"), clientPort
			if strings.Contains(host, ":") && net.ParseIP(host) == nil {
				return nil, usagef("--servers: %q is not host:port", s)
			}
		}
		if host == "" {
			host = "127.0.0.1"
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			return nil, usagef("--servers: %q has no valid port", s)
		}
		out = append(out, net.JoinHostPort(host, port))
	}
	if len(out) == 0 {
		return nil, usagef("--servers: no address given")
	}
	return out, nil
}

// use runs f with a client and a context that ends after the time-out. The
// session is closed behind f, so that commands run in a loop do not fill the
// cluster with sessions.
func (r *remote) use(ctx context.Context, change func(*client.Config), f func(context.Context, *client.Client, *parley.Session) error) error {
	c, err := r.dial(change)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	session := c.Session()
	err = f(ctx, c, session)
	if parley.CodeOf(err) == parley.CodeNoQuorum {
		return r.unanswered(c, err) // closing would be in vain too
	}
	closeSession(ctx, session)
	return err
}

// unanswered is err, that no answer came, with what is wrong with the
// connection, if anything is.
func (r *remote) unanswered(c *client.Client, err error) error {
	if trouble := c.Trouble(); trouble != nil {
		return fmt.Errorf("no answer within %v: %w", r.timeout, trouble)
	}
	return err
}

// closeSession closes a session if that can be done at once; otherwise it expires.
func closeSession(ctx context.Context, s *parley.Session) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = s.Close(ctx)
}
