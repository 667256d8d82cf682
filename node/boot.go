package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// bootEvery is how often a node without a cluster looks for one.
const bootEvery = 300 * time.Millisecond

func sorted(names []string) []string {
	s := slices.Clone(names)
	slices.Sort(s)
	return slices.Compact(s)
}

// boot brings a node without any data into a cluster: an existing one, when told
// to join, else a new one of the configured members, which the first of them by
// name bootstraps once all are there and none knows of a cluster. It ends when
// the node is in.
func (n *Node) boot(ctx context.Context) {
	step, what := n.bootstrap, "bootstrapping"
	if n.cfg.Join {
		step, what = n.join, "joining"
	}
	ticker := time.NewTicker(bootEvery)
	defer ticker.Stop()
	var last string
	for !n.inCluster() && n.raft.LastIndex() == 0 { // with a log it has been in one, if only for a moment
		err := step(ctx)
		var no *advised
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &no):
			n.fatal(no)
			return
		case err != nil && err.Error() != last:
			last = err.Error()
			n.log.Info(what+" the cluster has to wait", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
	n.log.Info("this node is in the cluster", "server", n.server)
}

func (n *Node) inCluster() bool {
	return slices.ContainsFunc(n.servers(), func(s raft.Server) bool { return s.ID == n.server })
}

// bootstrap is one try. The error is an *advised if there must not be another.
func (n *Node) bootstrap(ctx context.Context) error {
	names := sorted(n.cfg.Members)
	if !slices.Contains(names, n.cfg.Name) {
		return &advised{fmt.Errorf("this node, %s, is not among the members %v", n.cfg.Name, names), "give all members of the new cluster, the same on each of them, or use --join"}
	}
	said := n.identifyAll(ctx, names)
	for _, name := range names {
		id, ok := said[name]
		if !ok || len(id.Servers) == 0 {
			continue
		}
		if server := id.Servers[n.cfg.Name]; server != string(n.server) {
			return &advised{
				fmt.Errorf("%s is in a cluster already, in which %s is not this node: server id %q, here %q", name, n.cfg.Name, server, n.server),
				"if this node's data was lost or wiped on purpose, start it with --join",
			}
		}
		return nil // it has been bootstrapped with this node; the leader will find it
	}
	if n.cfg.Name != names[0] {
		return nil
	}
	var servers []raft.Server
	for _, name := range names {
		id, ok := said[name]
		if !ok {
			return fmt.Errorf("%s does not answer", name)
		}
		if !slices.Equal(id.Members, names) {
			return fmt.Errorf("%s was told that the members are %v, this node %v", name, id.Members, names)
		}
		servers = append(servers, raft.Server{ID: raft.ServerID(id.Server), Address: raft.ServerAddress(name)})
	}
	err := n.raft.BootstrapCluster(raft.Configuration{Servers: servers}).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		return nil // done a moment ago
	}
	return err
}

// joinRequest asks the leader to add a server.
type joinRequest struct {
	parley.Member
	PassedOn bool `json:"passed_on"` // by a follower
}

// join is one try to be added. The leader adds this node as a learner and makes
// it a voter once it has caught up.
func (n *Node) join(ctx context.Context) error {
	body, err := json.Marshal(joinRequest{Member: n.row()})
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range sorted(n.cfg.Members) {
		if name == n.cfg.Name {
			continue
		}
		call, cancel := context.WithTimeout(ctx, 2*n.roundTimeout())
		_, err := n.cfg.Network.Peer(name).Call(call, callJoin, body)
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	if len(errs) == 0 {
		return &advised{errors.New("there is nobody to join"), "name at least one other member"}
	}
	return errors.Join(errs...)
}

// handleJoin adds a server, in the place of a former one of its name.
func (n *Node) handleJoin(ctx context.Context, j joinRequest) error {
	l := n.leader.Load()
	switch {
	case l.Self:
	case l.ID == "" || j.PassedOn:
		return n.notLeader()
	default:
		j.PassedOn = true
		body, err := json.Marshal(j)
		if err == nil {
			_, err = n.cfg.Network.Peer(l.ID).Call(ctx, callJoin, body)
		}
		return err
	}
	if j.ID == "" || j.Server == "" || j.ID == n.cfg.Name {
		return parley.Errorf(parley.CodeBadRequest, "join of %q as server %q", j.ID, j.Server)
	}
	var former raft.ServerID
	for _, s := range n.servers() {
		if string(s.ID) == j.Server {
			return nil // added already
		}
		if string(s.Address) == j.ID {
			former = s.ID
		}
	}
	if j.Peer != "" {
		n.cfg.Network.Learn(j.ID, j.Peer)
	}
	if former != "" {
		if id, err := n.identify(ctx, j.ID); err == nil && id.Server == string(former) {
			return parley.Errorf(parley.CodeBadRequest, "%s is alive, with server id %s: stop it first", j.ID, former)
		}
		n.log.Warn("a member joins again without its data; its former server is removed", "member", j.ID, "former", former, "server", j.Server)
		if err := n.raft.RemoveServer(former, 0, n.roundTimeout()).Error(); err != nil {
			return n.proposeError(err)
		}
	}
	n.log.Info("adding a learner", "member", j.ID, "server", j.Server)
	if err := n.raft.AddNonvoter(raft.ServerID(j.Server), raft.ServerAddress(j.ID), 0, n.roundTimeout()).Error(); err != nil {
		return n.proposeError(err)
	}
	return nil
}
