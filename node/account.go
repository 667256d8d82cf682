package node

import (
	"github.com/parley-chat/parley"
)

// Policy is the policy as this node's own state has it, which reflects all that
// an answer of Get has reflected before.
func (n *Node) Policy() parley.Policy { return n.fsm.Policy() }

// Revision changes whenever an account or the policy in this node's own state has
// changed.
func (n *Node) Revision() uint64 { return n.fsm.Revision() }

// SessionsOf is how many sessions are open, in this node's own state, that a user has
// opened once logged in.
func (n *Node) SessionsOf(user parley.Incarnation) int { return n.fsm.SessionsOf(user) }

// Account is what there is about a user's credentials in this node's own state,
// which reflects all that an answer of Get has reflected before.
func (n *Node) Account(name string) (parley.Account, error) { return n.fsm.Account(name) }

// tokens answers the query from the node's own state.
func (n *Node) tokens(q parley.Tokens) (parley.Result, error) {
	a, err := n.fsm.Account(q.User)
	if err != nil {
		return parley.Result{}, err
	}
	if a.Key == "" {
		return parley.Result{Code: parley.CodeNoSuchUser, Detail: noSuchUser(q.User).Detail}, nil
	}
	return parley.Result{Tokens: a.PublicTokens()}, nil
}
