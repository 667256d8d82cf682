package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley/certs"
	"github.com/parley-chat/parley/node"
)

const serveHelp = `Serve runs one node of a cluster until it gets SIGTERM or SIGINT; then it hands
over leadership, lets commands under way finish and ends.

A new cluster: start every node with the same --members list. The nodes wait for
each other and then begin, once. Later starts need the same flags; what the
cluster has become since then is in --data.

A new node for an existing cluster, or one whose disk was lost: give --join, and
in --members the nodes to ask.

Nodes trust each other by certificates (see 'parley certs'). Clients must use TLS
too, with the node's certificate or that of --client-cert, unless
--client-plaintext allows plain text.

If the disk fails or its contents are damaged, the node ends at once with exit
status 1 and says what to do.`

func newServeCmd(a *app) *cobra.Command {
	s := &settings{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run one node",
		Long:  serveHelp,
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			return serve(cmd.Context(), a, s)
		},
	}
	s.add(cmd.Flags())
	return cmd
}

// check finds mistakes in the settings and fills in what follows from others.
func (s *settings) check() error {
	switch {
	case s.name == "":
		return usagef("--name is missing: the node's name, as in its certificate")
	case s.data == "":
		return usagef("--data is missing: the directory for the node's data")
	case s.certs == "":
		return usagef("--certs is missing: the directory that 'parley certs %s' made", s.name)
	case len(s.members) == 0:
		return usagef("--members is missing: the nodes of the cluster, as in n1=host1:7000,n2=host2:7000,n3=host3:7000")
	case !node.LogStore(s.raft.store).Valid():
		return usagef("--log-store: %q is neither bolt nor wal", s.raft.store)
	case s.clientPlaintext && (s.clientCert != "" || s.clientKey != ""):
		return usagef("--client-plaintext and --client-cert exclude each other")
	case (s.clientCert == "") != (s.clientKey == ""):
		return usagef("--client-cert and --client-key belong together")
	}
	if err := certs.CheckName(s.name); err != nil {
		return usagef("--name: %w", err)
	}
	if err := s.checkMembers(); err != nil {
		return err
	}
	if err := s.checkNumbers(); err != nil {
		return err
	}
	return s.checkAddresses()
}

// checkMembers reads --members.
func (s *settings) checkMembers() error {
	s.addrs = map[string]string{}
	for _, m := range s.members {
		name, addr, ok := strings.Cut(strings.TrimSpace(m), "=")
		if !ok {
			return usagef("--members: %q is not name=host:port", m)
		}
		if err := certs.CheckName(name); err != nil {
			return usagef("--members: %w", err)
		}
		if err := dialable(addr); err != nil {
			return usagef("--members: %s: %w", name, err)
		}
		if s.addrs[name] != "" {
			return usagef("--members: %s is there twice", name)
		}
		s.addrs[name] = addr
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	if s.addrs[s.name] == "" && !s.join {
		return usagef("--members: %s itself is not among %s (--join adds a node to an existing cluster)", s.name, strings.Join(s.names, ", "))
	}
	return nil
}

// checkAddresses finds out what to tell others about where this node is.
func (s *settings) checkAddresses() error {
	for flag, addr := range map[string]string{
		"client-listen": s.clientListen, "peer-listen": s.peerListen, "ops-listen": s.opsListen,
	} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return usagef("--%s: %w", flag, err)
		}
	}
	if s.peerAdvertise == "" {
		s.peerAdvertise = s.addrs[s.name]
	}
	for flag, a := range map[string]struct {
		advertise *string
		listen    string
	}{
		"client-advertise": {&s.clientAdvertise, s.clientListen},
		"peer-advertise":   {&s.peerAdvertise, s.peerListen},
	} {
		if *a.advertise == "" {
			addr, err := reachableAt(a.listen)
			if err != nil {
				return usagef("--%s is missing, and cannot be guessed: %w", flag, err)
			}
			*a.advertise = addr
		}
		if err := dialable(*a.advertise); err != nil {
			return usagef("--%s: %w", flag, err)
		}
	}
	return nil
}

// dialable checks a host:port to which others are to connect.
func dialable(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() || port == "" || port == "0" {
		return fmt.Errorf("%q is no address to connect to", addr)
	}
	return nil
}

// reachableAt guesses from an address to listen on where others can connect:
// if it names no host, under this host's name.
func reachableAt(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(host, port), nil
}

// logger returns the node's log.
func (s *settings) logger(a *app) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return nil, usagef("--log-level: %q is none of debug, info, warn, error", s.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch s.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(a.stderr, options)), nil // quotes what cannot be printed
	case "json":
		return slog.New(slog.NewJSONHandler(jsonWriter{a.stderr}, options)), nil
	}
	return nil, usagef("--log-format: %q is neither text nor json", s.logFormat)
}
