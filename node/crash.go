package node

import (
	"context"
	"maps"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley/internal/pause"
)

// crashAsk is how long the other members have to say how far their logs go.
const crashAsk = 50 * time.Millisecond

// crashes starts an election when the network says that the leader's process is
// dead, instead of waiting for the heartbeat's timeout. A false alarm costs an
// election and nothing else.
func (n *Node) crashes(ctx context.Context) {
	for {
		select {
		case name := <-n.cfg.Network.Crashed():
			n.onCrash(ctx, name)
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) onCrash(ctx context.Context, name string) {
	addr, leader := n.raft.LeaderWithID()
	term := n.raft.CurrentTerm()
	if string(addr) != name || n.raft.State() != raft.Follower {
		return
	}
	select {
	case <-n.refusals: // of another election
	default:
	}
	rank, ok := n.rank(ctx, leader)
	if !ok {
		return
	}
	// Only the first is in a hurry. The others come when it must have failed: a
	// disk may well take 200 ms to store a vote, and two candidates in one term
	// cost another election timeout. Or when they have refused it their vote, which
	// happens when the dead leader's last message came a moment too late for rank.
	if rank > 0 {
		select {
		case <-n.refusals:
		case <-time.After(time.Duration(rank) * n.cfg.HeartbeatTimeout):
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil || !n.orphaned(leader, term) {
		return
	}
	n.log.Info("the leader's process has ended; starting an election", "leader", name, "term", term, "rank", rank)
	n.meters.crash()
	n.stand()
}

// rank is this node's position among the voters that a leader leaves behind, who
// all ask each other: those with the longest log first, since nobody with a
// longer one votes for another, and among equals in the order of the
// configuration. ok is false if this node has no vote.
func (n *Node) rank(ctx context.Context, leader raft.ServerID) (rank int, ok bool) {
	var names []string
	before := make(map[string]bool) // in the configuration
	for _, s := range n.servers() {
		switch {
		case s.Suffrage != raft.Voter || s.ID == leader:
		case s.ID == n.server:
			ok = true
		default:
			names = append(names, string(s.Address))
			before[string(s.Address)] = !ok
		}
	}
	if !ok {
		return 0, false
	}
	last := n.lastIndexes(ctx, names)
	mine := last[n.cfg.Name]
	for _, name := range names {
		theirs, ok := last[name]
		if !ok {
			theirs = mine
		}
		if theirs > mine || theirs == mine && before[name] {
			rank++
		}
	}
	return rank, true
}

// lastIndexes is how far the logs of some members go, and this node's own. It
// asks until the answers do not change any more: the dead leader's last messages
// may still be on their way to the disks.
func (n *Node) lastIndexes(ctx context.Context, names []string) (last map[string]uint64) {
	ctx, cancel := context.WithTimeout(ctx, crashAsk)
	defer cancel()
	for {
		now := make(map[string]uint64)
		for name, id := range n.identifyAll(ctx, names) {
			now[name] = id.Last
		}
		now[n.cfg.Name] = n.raft.LastIndex()
		if len(now) > len(names) && maps.Equal(now, last) || ctx.Err() != nil {
			return now
		}
		last = now
		pause.For(ctx, crashAsk/16)
	}
}

// orphaned reports whether nobody has taken the place of a leader that led in a
// term: either nothing has happened, or another member has asked for this one's
// vote and did not get it, because its log is shorter. Then it will lose.
func (n *Node) orphaned(leader raft.ServerID, term uint64) bool {
	_, now := n.raft.LeaderWithID()
	if n.raft.State() != raft.Follower {
		return false
	}
	current := n.raft.CurrentTerm()
	return now == leader && current == term || now == "" && current > term && n.store.Voted() < current
}
