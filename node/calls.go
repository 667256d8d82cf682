package node

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// The calls between members. Bodies are JSON, but for callReadIndex: nothing
// one way, eight bytes back; and callCommitted: term and
// index, eight bytes each, one way, and a byte back if the entry is still to come.
const (
	callIdentify  = "identify"  // → identity
	callAnnounce  = "announce"  // parley.Member → nothing; leader only
	callJoin      = "join"      // joinRequest → nothing; passed on to the leader
	callHandOver  = "handover"  // adminRequest → nothing; passed on to the leader
	callRemove    = "remove"    // adminRequest → nothing; passed on to the leader
	callReadIndex = "readindex" // leader only
	callCommitted = "committed" // from the leader
)

// identity is what a node says about itself, with or without a quorum.
type identity struct {
	parley.Member
	Members []string          `json:"members"` // the first members by its configuration, sorted
	Servers map[string]string `json:"servers"` // name → server id in its Raft configuration; none: not in a cluster yet
	Leader  string            `json:"leader"`  // who leads, as far as it knows
	Last    uint64            `json:"last"`    // last index in its log
	Commit  uint64            `json:"commit"`  // last index it knows to be committed

	Warnings []string `json:"warnings,omitempty"` // what operators should know about it
}

// HandleCall answers a call of the member from.
func (n *Node) HandleCall(ctx context.Context, from, method string, body []byte) ([]byte, error) {
	if n.stopping.Load() {
		return nil, errStopping
	}
	switch method {
	case callReadIndex:
		return n.handleReadIndex(ctx)
	case callCommitted:
		return n.handleCommitted(from, body)
	case callIdentify:
		return json.Marshal(n.identity())
	case callAnnounce:
		var m parley.Member
		if err := json.Unmarshal(body, &m); err != nil || m.ID != from {
			return nil, parley.Errorf(parley.CodeBadRequest, "%s from %s: %v", method, from, err)
		}
		return nil, n.handleAnnounce(ctx, m)
	case callJoin:
		var j joinRequest
		if err := json.Unmarshal(body, &j); err != nil || j.ID != from && !j.PassedOn {
			return nil, parley.Errorf(parley.CodeBadRequest, "%s from %s: %v", method, from, err)
		}
		return nil, n.handleJoin(ctx, j)
	case callHandOver, callRemove:
		return nil, n.handleAdmin(ctx, from, method, body)
	}
	return nil, parley.Errorf(parley.CodeUnsupported, "call %q", method)
}

func (n *Node) identity() identity {
	l := n.leader.Load()
	id := identity{
		Member: n.row(), Members: sorted(n.cfg.Members), Servers: make(map[string]string),
		Leader: l.ID, Last: n.raft.LastIndex(), Commit: n.raft.CommitIndex(),
		Warnings: n.cfg.Warnings(),
	}
	id.Term, id.Applied, id.Reachable = n.raft.CurrentTerm(), n.fsm.Applied(), true
	suffrage := raft.Nonvoter
	for _, s := range n.servers() {
		id.Servers[string(s.Address)] = string(s.ID)
		if s.ID == n.server {
			suffrage = s.Suffrage
		}
	}
	switch n.raft.State() {
	case raft.Leader:
		id.Role = parley.RoleLeader
	case raft.Candidate:
		id.Role = parley.RoleCandidate
	default:
		id.Role = parley.RoleFollower
		if suffrage != raft.Voter {
			id.Role = parley.RoleLearner
		}
	}
	return id
}

// identify asks a member who it is.
func (n *Node) identify(ctx context.Context, name string) (id identity, err error) {
	if name == n.cfg.Name {
		return n.identity(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.roundTimeout())
	defer cancel()
	b, err := n.cfg.Network.Peer(name).Call(ctx, callIdentify, nil)
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, err
	}
	if id.ID != name {
		return id, parley.Errorf(parley.CodeInterrupted, "%s says that it is %q", name, id.ID)
	}
	return id, nil
}

// identifyAll asks several members at the same time. Those that do not answer
// are missing from the result.
func (n *Node) identifyAll(ctx context.Context, names []string) map[string]identity {
	type answer struct {
		name string
		id   identity
		err  error
	}
	ch := make(chan answer, len(names))
	for _, name := range names {
		go func() { // bounded by identify's deadline; ch has room for all
			id, err := n.identify(ctx, name)
			ch <- answer{name, id, err}
		}()
	}
	all := make(map[string]identity)
	for range names {
		if a := <-ch; a.err == nil {
			all[a.name] = a.id
		}
	}
	return all
}

// handleAnnounce puts a member's addresses into the table.
func (n *Node) handleAnnounce(ctx context.Context, m parley.Member) error {
	if !n.leader.Load().Self {
		return n.notLeader()
	}
	for _, s := range n.servers() {
		if string(s.ID) == m.Server && string(s.Address) == m.ID {
			return n.setMember(ctx, m)
		}
	}
	return parley.Errorf(parley.CodeBadRequest, "%s with server id %s is not a member of this cluster", m.ID, m.Server)
}

// status puts together what all members say, or the table says of those that
// say nothing.
func (n *Node) status(ctx context.Context) (parley.Result, error) {
	known := make(map[string]parley.Member)
	servers := n.servers()
	for _, s := range servers {
		known[string(s.Address)] = parley.Member{ID: string(s.Address), Server: string(s.ID)}
	}
	if len(servers) == 0 { // no cluster yet
		for _, name := range n.cfg.Members {
			known[name] = parley.Member{ID: name}
		}
	}
	for _, m := range n.fsm.Members() {
		if _, ok := known[m.ID]; ok { // otherwise it was removed a moment ago
			known[m.ID] = m
		}
	}
	var names []string
	for name := range known {
		names = append(names, name)
	}
	names = sorted(names)
	said := n.identifyAll(ctx, names)
	if err := ctx.Err(); err != nil {
		return parley.Result{}, err
	}
	r := parley.Result{Code: parley.CodeOK, Detail: warnings(names, said)}
	newest := uint64(0) // term of a leader; one of an older term does not lead any more
	for _, id := range said {
		if id.Role == parley.RoleLeader {
			newest = max(newest, id.Term)
		}
	}
	for _, name := range names {
		m := known[name]
		m.Role = parley.RoleUnknown
		if id, ok := said[name]; ok {
			m = id.Member
			if m.Role == parley.RoleLeader && m.Term < newest {
				m.Role = parley.RoleUnknown
			}
		}
		r.Members = append(r.Members, m)
	}
	return r, nil
}

// warnings are the members' own, a line each.
func warnings(names []string, said map[string]identity) string {
	var lines []string
	for _, name := range names {
		for _, w := range said[name].Warnings {
			lines = append(lines, name+": "+w)
		}
	}
	return strings.Join(lines, "\n")
}
