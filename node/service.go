package node

import (
	"context"

	"github.com/parley-chat/parley"
)

var errStopping = parley.Errorf(parley.CodeShuttingDown, "this node is stopping")

// Start implements [parley.Service]. A follower forwards to the leader.
//
// Without a session, the order of commands is that of their starts only as long
// as the same member leads: one that was forwarded to a leader which lost and
// regained leadership meanwhile may come late.
func (n *Node) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	l := n.leader.Load()
	if l.ID != "" && !l.Self && !n.stopping.Load() {
		n.cfg.Network.Peer(l.ID).Start(ctx, r, done)
		return
	}
	n.startHere(ctx, r, done)
}

func (n *Node) startHere(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	switch {
	case n.stopping.Load():
		done(parley.Result{}, errStopping)
	case !n.leader.Load().Self:
		done(parley.Result{}, n.notLeader())
	default:
		if err := malformed(r); err != nil {
			done(parley.Result{}, err)
			return
		}
		n.proposer.start(ctx, r, done)
	}
}

// notLeader is the refusal of what only the leader can do: nothing was applied.
func (n *Node) notLeader() *parley.Error {
	l := n.leader.Load()
	if l.ID == "" || l.Self {
		return parley.Errorf(parley.CodeNotLeader, "there is no leader: no quorum of members has elected one")
	}
	return &parley.Error{Code: parley.CodeNotLeader, Detail: n.cfg.Name + " follows " + l.ID, Leader: l.ID}
}

// listPatience is how many pages of names may wait before computing them leaves
// the processors to others half of the time.
const listPatience = 16

// Get implements [parley.Service].
func (n *Node) Get(ctx context.Context, q parley.Query) (parley.Result, error) {
	return n.get(ctx, q, true)
}

func (n *Node) get(ctx context.Context, q parley.Query, forward bool) (parley.Result, error) {
	if _, ok := q.(parley.Status); ok {
		return n.status(ctx)
	}
	if err := n.readPoint(ctx, forward); err != nil {
		return parley.Result{}, err
	}
	var r parley.Result
	switch q := q.(type) {
	case parley.Users:
		if err := n.lists.Do(ctx, func() { r = n.fsm.Users(q) }); err != nil {
			return parley.Result{}, parley.Errorf(parley.CodeOverloaded, "given up while %d pages of names waited to be computed: %v", n.lists.Waiting(), err)
		}
	case parley.Inbox:
		r = n.fsm.Inbox(q)
	case parley.GetPolicy:
		policy := n.fsm.Policy()
		r.Policy = &policy
	case parley.Tokens:
		return n.tokens(q)
	case parley.Invites:
		r = n.fsm.Invites(q)
	default:
		return parley.Result{}, parley.Errorf(parley.CodeUnsupported, "query %T", q)
	}
	if !r.Code.IsAnswer() {
		return parley.Result{}, &parley.Error{Code: r.Code, Detail: r.Detail}
	}
	if i, ok := q.(parley.Inbox); ok && r.Code == parley.CodeNoSuchUser && r.Detail == "" {
		r.Detail = noSuchUser(i.User).Detail
	}
	return r, nil
}

// Local is this node without forwarding: what other members' forwarded commands
// are given to.
func (n *Node) Local() parley.Service { return local{n} }

type local struct{ n *Node }

func (l local) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	l.n.startHere(ctx, r, done)
}

func (l local) Get(ctx context.Context, q parley.Query) (parley.Result, error) {
	return l.n.get(ctx, q, false)
}
