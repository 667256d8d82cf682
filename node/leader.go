package node

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/mux"
)

// leadership is who leads, as this node knows it. It is replaced, not changed.
type leadership struct {
	mux.Leader
	server  raft.ServerID
	changed chan struct{} // closed when it is replaced
}

// Leadership returns who leads and a channel that is closed when that changes. A
// leader is not named before it has announced where clients find it, so that
// nobody is sent to a guess.
func (n *Node) Leadership() (mux.Leader, <-chan struct{}) {
	l := n.leader.Load()
	if !l.Self && l.Client == "" {
		return mux.Leader{}, l.changed
	}
	return l.Leader, l.changed
}

// tick is how often everything is looked at that no event tells of.
const tick = 200 * time.Millisecond

// follow keeps n.leader current.
func (n *Node) follow(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var lost raft.ServerAddress
	for {
		select {
		case <-n.leads: // Raft waits for the channel to be read
		case <-n.seen:
		case <-ticker.C:
			lost = n.forgetLeader(lost)
		case <-ctx.Done():
			return
		}
		n.refreshLeader()
	}
}

// forgetLeader makes Raft forget a leader that it has not heard of for long. A
// candidate that has been told to stand at once (a transfer, or this node's crash
// detection) and meets the winner of its term takes note of the leader and remains a
// candidate, and of candidates Raft does not look whether their leader is silent: if
// the winner dies before that candidacy is over, this member refuses to all others,
// for ever, to vote before an election. It returns that leader; Raft is told when it
// was so at the last look, too, and listens at this moment.
func (n *Node) forgetLeader(before raft.ServerAddress) (lost raft.ServerAddress) {
	addr, _ := n.raft.LeaderWithID()
	if addr == "" || n.raft.State() != raft.Candidate || time.Since(n.raft.LastContact()) < 2*n.cfg.HeartbeatTimeout {
		return ""
	}
	if addr == before {
		n.link.Offer(standNow())
	}
	return addr
}

// stand has this node stand for election at once. Raft then has no leader.
func (n *Node) stand() { n.link.Inject(standNow(), n.quit) }

func standNow() *raft.TimeoutNowRequest {
	return &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
}

// refreshLeader asks Raft who leads.
func (n *Node) refreshLeader() {
	n.leaderMu.Lock()
	defer n.leaderMu.Unlock()
	addr, server := n.raft.LeaderWithID()
	next := mux.Leader{ID: string(addr)}
	if server == n.server {
		next.Self = n.raft.State() == raft.Leader
		if !next.Self {
			next.ID = ""
		}
	}
	for _, m := range n.fsm.Members() {
		if m.ID == next.ID {
			next.Client = m.Client
		}
	}
	now := n.leader.Load()
	if now.Leader == next && now.server == server {
		return
	}
	n.leader.Store(&leadership{Leader: next, server: server, changed: make(chan struct{})})
	close(now.changed)
	n.meters.leads(next.Self)
	if now.ID != next.ID {
		n.log.Info("leader changed", "leader", next.ID, "term", n.raft.CurrentTerm())
	}
}

// row is this node's entry in the table of members.
func (n *Node) row() parley.Member {
	return parley.Member{ID: n.cfg.Name, Server: string(n.server), Client: n.cfg.ClientAddr, Peer: n.cfg.PeerAddr}
}

// announce tells the leader where this node can be reached, unless the table
// says so.
func (n *Node) announce(ctx context.Context, l *leadership) {
	if l.ID == "" || slices.Contains(n.fsm.Members(), n.row()) || !n.inCluster() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.roundTimeout())
	defer cancel()
	body, err := json.Marshal(n.row())
	if err == nil {
		_, err = n.cfg.Network.Peer(l.ID).Call(ctx, callAnnounce, body)
	}
	if err != nil && ctx.Err() == nil {
		n.log.Debug("announcing this node's addresses failed, will try again", "leader", l.ID, "err", err)
	}
}

// learn tells the network where members listen, if the table has changed.
func (n *Node) learn(learned []parley.Member) []parley.Member {
	now := n.fsm.Members()
	if slices.Equal(now, learned) {
		return learned
	}
	for _, m := range now {
		if m.ID != n.cfg.Name && m.Peer != "" {
			n.cfg.Network.Learn(m.ID, m.Peer)
		}
	}
	return now
}

// roundTimeout bounds calls between members that answer from memory, or after
// one round of Raft: in that time an election has taken place if one is needed.
func (n *Node) roundTimeout() time.Duration { return 4 * n.cfg.HeartbeatTimeout }

// stuckTransfer is how long a transfer of leadership may keep entries out. Raft
// gives up after one election timeout, two if the other member has been told.
func (n *Node) stuckTransfer() time.Duration { return 4 * n.cfg.HeartbeatTimeout }
