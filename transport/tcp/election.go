package tcp

import (
	"math/rand/v2"
	"time"

	"github.com/parley-chat/parley/mux"
)

// electionTime is how long a hello waits for somebody to lead. Clients wait longer
// for an answer.
const electionTime = 500 * time.Millisecond

// spread is over how long those that have waited here are sent to the new leader.
const spread = 20 * time.Millisecond

// whoLeads returns who leads. While nobody is known to, it waits for an election:
// all the clients of a leader that has died come here at the same time, and would
// otherwise ask again and again. They are not sent on together either.
func (g *Gateway) whoLeads() mux.Leader {
	late := time.NewTimer(electionTime)
	defer late.Stop()
	for waited := false; ; waited = true {
		leader, changed := g.cfg.Leadership()
		if leader.ID != "" && !leader.Self && waited {
			time.Sleep(rand.N(spread))
		}
		if leader.Self || leader.ID != "" {
			return leader
		}
		select {
		case <-changed:
		case <-late.C:
			return leader
		}
	}
}
