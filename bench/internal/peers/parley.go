package peers

import (
	"context"
	"errors"
	"os/exec"
	"strings"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/bench"
	"github.com/parley-chat/parley/internal/local"
)

// Parley returns Parley with its default settings, run by a binary, and, if the
// binary offers a choice of log stores, with the other one.
func Parley(ctx context.Context, binary string) ([]Peer, error) {
	out, err := exec.CommandContext(ctx, binary, "version").Output()
	if err != nil {
		return nil, err
	}
	help, err := exec.CommandContext(ctx, binary, "serve", "--help").CombinedOutput()
	if err != nil {
		return nil, err
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "parley "), " ")
	peer := Peer{
		Info: Info{
			ID: "parley", Name: "Parley", Version: version, Ours: true,
			Settings: "`parley serve` with its defaults, mutual TLS between servers; " +
				"`client.Client`, a session per connection, connected to the leader",
			Promises: "synced on a majority; takes effect once, however often it is sent again",
			Missing:  none,
		},
		binary: binary,
		driver: func() driver { return parleyDriver{} },
	}
	peers := []Peer{peer}
	if strings.Contains(string(help), "--log-store") {
		peer.ID, peer.Name = "parley-wal", "Parley, log store wal"
		peer.Settings = "as above with `--log-store wal`"
		peer.args = []string{"--log-store", "wal"}
		peers = append(peers, peer)
	}
	return peers, nil
}

// none is what Parley does not do that it does.
const none = "–"

type parleyDriver struct{}

func (parleyDriver) prepare(context.Context, *local.Cluster) error { return nil }

func (parleyDriver) close() {}

func (parleyDriver) leader(ctx context.Context, c *local.Cluster) (string, error) {
	members, err := status(ctx, c)
	for _, m := range members {
		if m.Role == parley.RoleLeader {
			return m.ID, nil
		}
	}
	return "", errors.Join(errors.New("no leader"), err)
}

func (parleyDriver) healthy(ctx context.Context, c *local.Cluster) error {
	members, err := status(ctx, c)
	if err != nil {
		return err
	}
	var most uint64
	for _, m := range members {
		most = max(most, m.Applied)
	}
	for _, m := range members {
		if !m.Reachable || m.Applied+100 < most {
			return errors.New(m.ID + " lags behind")
		}
	}
	return c.WaitReady(ctx)
}

// Members asks a cluster of Parley how far its nodes are.
func (c *Cluster) Members(ctx context.Context) ([]parley.Member, error) {
	return status(ctx, c.Cluster)
}

// DialNode makes a client of Parley that stays with one node, leading or not.
func (c *Cluster) DialNode(n *local.Node, connected func(bool)) (bench.Client, error) {
	return client.New(client.Config{Servers: []string{n.Client}, Any: true, Events: events(connected)})
}

// DialAny makes a client of Parley that finds the leader by itself, whether there is
// one yet or not.
func (c *Cluster) DialAny() (bench.Client, error) {
	return client.New(client.Config{Servers: c.Servers()})
}

// events tells of connections made and lost; connected may be nil.
func events(connected func(bool)) func(client.Event) {
	return func(e client.Event) {
		if connected != nil && (e.Kind == client.Connected || e.Kind == client.Lost) {
			connected(e.Kind == client.Connected)
		}
	}
}

// status asks whichever node answers.
func status(ctx context.Context, c *local.Cluster) ([]parley.Member, error) {
	cl, err := client.New(client.Config{Servers: c.Servers(), Any: true})
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	res, err := cl.Get(ctx, parley.Status{})
	return res.Members, err
}

func (parleyDriver) dial(to []*local.Node, window int, connected func(bool)) (bench.Client, error) {
	var servers []string
	for _, n := range to {
		servers = append(servers, n.Client)
	}
	return client.New(client.Config{Servers: servers, Window: max(window, 1024), Events: events(connected)})
}

func (parleyDriver) dialReader(at *local.Node) (bench.Client, error) {
	return client.New(client.Config{Servers: []string{at.Client}, Any: true})
}
