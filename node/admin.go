package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

// adminRequest asks the leader for what only it can do to the cluster.
type adminRequest struct {
	Name     string `json:"name"`      // of a member; "": any
	PassedOn bool   `json:"passed_on"` // by a follower
}

// HandOver moves leadership to a member, or to the voter that is most caught up
// if name is "", wherever it is now, and returns when somebody else than before
// is known to lead.
func (n *Node) HandOver(ctx context.Context, name string) error {
	return n.atLeader(ctx, callHandOver, adminRequest{Name: name})
}

// Remove takes a member out of the cluster for good. It must not be started
// again with its data; its name may join again, as a new server without any (see
// docs/adr/0012). A leader hands leadership over first. Without what is removed,
// a majority of those that stay must be there: otherwise nothing changes, and the
// error says who is missing.
func (n *Node) Remove(ctx context.Context, name string) error {
	return n.atLeader(ctx, callRemove, adminRequest{Name: name})
}

// atLeader carries a request out here, or has the leader do so. While nobody is
// known to lead, or who was asked does not know yet that it does, it tries again
// for as long as an election may take.
func (n *Node) atLeader(ctx context.Context, method string, a adminRequest) error {
	election, cancel := context.WithTimeout(ctx, n.roundTimeout())
	defer cancel()
	for {
		err := n.tryAtLeader(ctx, method, a)
		if a.PassedOn || parley.CodeOf(err) != parley.CodeNotLeader || !pause.For(election, tick/4) {
			return err
		}
	}
}

func (n *Node) tryAtLeader(ctx context.Context, method string, a adminRequest) error {
	l := n.leader.Load()
	switch {
	case l.Self && method == callRemove:
		return n.remove(ctx, a.Name)
	case l.Self:
		return n.handOver(ctx, a.Name)
	case l.ID == "" || a.PassedOn:
		return n.notLeader()
	}
	a.PassedOn = true
	body, err := json.Marshal(a)
	if err == nil {
		_, err = n.cfg.Network.Peer(l.ID).Call(ctx, method, body)
	}
	return err
}

func (n *Node) handleAdmin(ctx context.Context, from, method string, body []byte) error {
	var a adminRequest
	if err := json.Unmarshal(body, &a); err != nil {
		return parley.Errorf(parley.CodeBadRequest, "%s from %s: %v", method, from, err)
	}
	return n.atLeader(ctx, method, a)
}

func (n *Node) handOver(ctx context.Context, name string) error {
	if name == "" {
		if len(n.servers()) == 1 {
			return parley.Errorf(parley.CodeBadRequest, "%s is the only member: there is nobody to lead in its place", n.cfg.Name)
		}
		return n.Transfer(ctx)
	}
	heir, ok := n.member(name)
	switch {
	case !ok:
		return n.noMember(name)
	case heir.ID == n.server:
		return nil
	case heir.Suffrage != raft.Voter:
		return parley.Errorf(parley.CodeBadRequest, "%s has no vote yet: it has not caught up", name)
	}
	var err error
	for range handOverTries { // Raft gives the heir no longer than an election may take, which a busy one may need
		if err = n.transferTo(ctx, heir); err == nil {
			return n.waitForOther(ctx)
		}
		if !pause.For(ctx, n.cfg.HeartbeatTimeout) || n.raft.State() != raft.Leader {
			break
		}
	}
	return parley.Errorf(parley.CodeInterrupted, "handing leadership to %s: %v", name, err)
}

const handOverTries = 3

func (n *Node) remove(ctx context.Context, name string) error {
	gone, ok := n.member(name)
	if !ok {
		return n.noMember(name)
	}
	if err := n.keepsQuorum(ctx, gone); err != nil {
		return err
	}
	if gone.ID == n.server {
		if err := n.Transfer(ctx); err != nil {
			return parley.Errorf(parley.CodeInterrupted, "%s leads, and could not hand over: %v", name, err)
		}
		return n.atLeader(ctx, callRemove, adminRequest{Name: name})
	}
	n.log.Warn("a member is removed for good", "member", name, "server", gone.ID)
	done := n.raft.RemoveServer(gone.ID, 0, n.roundTimeout())
	if err := done.Error(); err != nil {
		return n.proposeError(err)
	}
	if err := n.part(ctx, gone, done.Index()); err != nil {
		n.log.Warn("the removed member does not know it yet; stop it", "member", name, "error", err)
	}
	return nil
}

// part sends a member that has been removed the log up to the committed entry at
// index, which says so. Raft stops sending as soon as that entry is in the leader's
// own log, unless the member happens to wait for it; one that does not get it
// would go on asking for votes. What is sent is what this node's Raft would send as
// the leader of that entry's term, which it was.
func (n *Node) part(ctx context.Context, gone raft.Server, index uint64) error {
	var last raft.Log
	if err := n.entries.GetLog(index, &last); err != nil {
		return err
	}
	from := index
	for ctx.Err() == nil {
		req, err := n.entriesFrom(from, index)
		if err != nil {
			return err
		}
		req.Term = last.Term
		var resp raft.AppendEntriesResponse
		if err := n.link.AppendEntries(gone.ID, gone.Address, &req, &resp); err != nil {
			return err
		}
		sent := from + uint64(len(req.Entries)) - 1
		switch {
		case resp.Term > last.Term:
			return fmt.Errorf("it is in term %d already, the removal is of term %d", resp.Term, last.Term)
		case resp.Success && sent == index:
			return nil
		case resp.Success:
			from = sent + 1
		case from == 1:
			return fmt.Errorf("it does not take the log from its beginning")
		default:
			from = min(from-1, resp.LastLog+1)
		}
	}
	return context.Cause(ctx)
}

// entriesFrom makes a message of entries of the log, from one to at most another,
// that are committed.
func (n *Node) entriesFrom(from, to uint64) (req raft.AppendEntriesRequest, err error) {
	req = raft.AppendEntriesRequest{
		RPCHeader:         raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.server), Addr: []byte(n.cfg.Name)},
		LeaderCommitIndex: to,
	}
	if req.PrevLogEntry = from - 1; from > 1 {
		var prev raft.Log
		if err := n.entries.GetLog(from-1, &prev); err != nil {
			return req, fmt.Errorf("log entry %d: %w", from-1, err)
		}
		req.PrevLogTerm = prev.Term
	}
	for i := from; i <= min(to, from+maxAppendEntries-1); i++ {
		var entry raft.Log
		if err := n.entries.GetLog(i, &entry); err != nil {
			return req, fmt.Errorf("log entry %d: %w", i, err)
		}
		req.Entries = append(req.Entries, &entry)
	}
	return req, nil
}

// keepsQuorum refuses what would leave a cluster without a majority: the removal
// itself has to be agreed upon by those who stay.
func (n *Node) keepsQuorum(ctx context.Context, gone raft.Server) error {
	if gone.Suffrage != raft.Voter {
		return nil
	}
	var stay, missing []string
	for _, s := range n.servers() {
		if s.Suffrage == raft.Voter && s.ID != gone.ID {
			stay = append(stay, string(s.Address))
		}
	}
	if len(stay) == 0 {
		return parley.Errorf(parley.CodeBadRequest, "%s is the last member with a vote: without it there is no cluster", gone.Address)
	}
	said := n.identifyAll(ctx, stay)
	for _, name := range stay {
		s, _ := n.member(name)
		if id, ok := said[name]; !ok || id.Server != string(s.ID) {
			missing = append(missing, name)
		}
	}
	if need := len(stay)/2 + 1; len(stay)-len(missing) < need {
		return parley.Errorf(parley.CodeBadRequest,
			"without %s, %d of %d members with a vote are needed, and %v do not answer: bring them back, or remove them first",
			gone.Address, need, len(stay), missing)
	}
	return nil
}

// member finds a member by name.
func (n *Node) member(name string) (raft.Server, bool) {
	servers := n.servers()
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.Address) == name })
	if i < 0 {
		return raft.Server{}, false
	}
	return servers[i], true
}

func (n *Node) noMember(name string) error {
	var names []string
	for _, s := range n.servers() {
		names = append(names, string(s.Address))
	}
	return parley.Errorf(parley.CodeBadRequest, "%.80q is no member: there are %s", name, fmt.Sprint(sorted(names)))
}
