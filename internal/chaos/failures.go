package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

// failures makes nodes fail until the time is up, enough have, or ctx ends,
// always one at a time: the next only once the former is back, has caught up, and
// a write has been acknowledged.
//
// It leaves a healthy cluster behind, or returns an error.
func (r *Run) failures(ctx context.Context) error {
	end := time.Now().Add(r.cfg.Duration)
	next := time.Now().Add(r.cfg.KillEvery / 2)
	for i := 0; next.Before(end); i++ {
		if i > 0 && i == r.cfg.Kills {
			return nil
		}
		if !pause.For(ctx, time.Until(next)) {
			return nil
		}
		if err := r.failure(ctx, i); err != nil {
			return err
		}
		if next = next.Add(r.cfg.KillEvery); next.Before(time.Now()) {
			next = time.Now()
		}
	}
	pause.For(ctx, time.Until(end))
	return nil
}

// steady is failures without any: the cluster is left alone, and must not change
// its leader.
func (r *Run) steady(ctx context.Context) error {
	healthy := func() error {
		wait, cancel := context.WithTimeoutCause(ctx, r.cfg.Patience, fmt.Errorf("the cluster was not healthy within %v", r.cfg.Patience))
		defer cancel()
		_, err := r.healthy(wait, 0)
		return err
	}
	err := healthy()
	if err == nil && pause.For(ctx, r.cfg.Duration-r.Elapsed()) {
		err = healthy()
	}
	if n := r.elections(); err == nil && n > 0 {
		return fmt.Errorf("%d elections without a cause", n)
	}
	return ignoreStop(ctx, err)
}

// failure makes one node fail, repairs it, and waits until the cluster is whole.
func (r *Run) failure(ctx context.Context, i int) error {
	wait, cancel := context.WithTimeoutCause(ctx, r.cfg.Patience, fmt.Errorf("the cluster did not heal within %v", r.cfg.Patience))
	defer cancel()
	members, err := r.healthy(wait, 0)
	if err != nil {
		return ignoreStop(ctx, err)
	}
	fault, leader := r.cfg.fault(i)
	victim := choose(members, leader)

	began := time.Now()
	f := r.gaps.begin(Failure{Fault: fault, Node: victim.ID, Leader: leader, At: r.Elapsed()}, r.cfg.SlowTarget || fault == Term, began)
	r.setDown(victim.ID, true)
	if err := r.cfg.Target.Fail(context.WithoutCancel(ctx), victim.ID, fault); err != nil {
		return fmt.Errorf("%s %s: %w", fault, victim.ID, err)
	}
	failed := time.Now()
	r.gaps.complete(f.Number, failed)
	r.event(Event{Kind: EventFailure, Failure: f})

	pause.For(ctx, r.cfg.down(fault)-time.Since(failed))
	if err := r.cfg.Target.Repair(context.WithoutCancel(ctx), victim.ID, fault); err != nil {
		return fmt.Errorf("repair %s after %s: %w", victim.ID, fault, err)
	}
	r.setDown(victim.ID, false)
	r.event(Event{Kind: EventRepair, Failure: f})

	for r.gaps.open.Load() > 0 {
		if !pause.For(wait, 10*time.Millisecond) {
			return ignoreStop(ctx, fmt.Errorf("%w: nothing was acknowledged after failure %d", context.Cause(wait), f.Number))
		}
	}
	_, err = r.healthy(wait, len(members))
	return ignoreStop(ctx, err)
}

// ignoreStop drops errors that come from the run being stopped.
func ignoreStop(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// choose picks the leader or, at random, another member.
func choose(members []parley.Member, leader bool) parley.Member {
	var leads parley.Member
	var others []parley.Member
	for _, m := range members {
		if m.Role == parley.RoleLeader {
			leads = m
		} else {
			others = append(others, m)
		}
	}
	if leader {
		return leads
	}
	return others[rand.IntN(len(others))]
}

// healthy waits until at least want members are in, all answer, one leads, and
// all have come as far as the leader was when healthy was called.
func (r *Run) healthy(ctx context.Context, want int) ([]parley.Member, error) {
	var goal uint64
	last := "no answer"
	for {
		members, err := r.status(ctx)
		if err == nil {
			var applied uint64
			if applied, last = inspect(members, want, goal); last == "" && goal > 0 {
				return members, nil
			}
			if goal == 0 {
				goal = applied
			}
		} else if ctx.Err() == nil {
			last = err.Error()
		}
		if !pause.For(ctx, 50*time.Millisecond) {
			return nil, fmt.Errorf("%w: %s", context.Cause(ctx), last)
		}
	}
}

// inspect returns the leader's applied index and what is wrong with the cluster.
func inspect(members []parley.Member, want int, goal uint64) (applied uint64, wrong string) {
	leaders := 0
	for _, m := range members {
		switch {
		case !m.Reachable:
			wrong = m.ID + " does not answer"
		case m.Applied < goal:
			wrong = m.ID + " has not caught up"
		case m.Role == parley.RoleLearner:
			wrong = m.ID + " has no vote"
		}
		if m.Role == parley.RoleLeader {
			leaders++
			applied = max(applied, m.Applied)
		}
	}
	switch {
	case leaders != 1:
		wrong = fmt.Sprintf("%d leaders", leaders)
	case len(members) < max(want, 2):
		wrong = fmt.Sprintf("%d members", len(members))
	}
	return applied, wrong
}

// follow keeps the picture of the members up to date.
func (r *Run) follow(ctx context.Context) {
	for pause.For(ctx, 250*time.Millisecond) {
		_, _ = r.status(ctx)
	}
}

// status asks the cluster for its members.
func (r *Run) status(ctx context.Context) ([]parley.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	result, err := r.admin.Get(ctx, parley.Status{})
	if err == nil {
		err = result.Err()
	}
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = result.Members
	for _, m := range result.Members {
		r.terms[1] = max(r.terms[1], m.Term)
	}
	if r.terms[0] == 0 {
		r.terms[0] = r.terms[1]
	}
	return result.Members, nil
}

// elections is by how much the term has grown since the cluster was first asked.
func (r *Run) elections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int(r.terms[1] - r.terms[0])
}

func (r *Run) setDown(node string, down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down[node] = down
}
