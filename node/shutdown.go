package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// Ready returns nil when this node can serve: a majority confirms a leader, and
// this node's own state has caught up with it.
func (n *Node) Ready() error {
	if err := n.Err(); err != nil {
		return err
	}
	if n.raft.LastIndex() > 0 && !n.inCluster() {
		return errors.New("this node has been removed from the cluster")
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.roundTimeout())
	defer cancel()
	if err := n.readPoint(ctx, true); err != nil {
		return err
	}
	if l, _ := n.Leadership(); l.ID == "" {
		return errors.New("the leader has not announced its address to clients yet")
	}
	return nil
}

// Transfer hands leadership to the voter that is most caught up, if this node
// leads, and returns when another leader is known. Until then this node refuses
// commands with CodeNotLeader.
func (n *Node) Transfer(ctx context.Context) error {
	if n.raft.State() != raft.Leader {
		return nil
	}
	heirs, alone := n.heirs(ctx)
	if alone {
		return nil
	}
	if len(heirs) == 0 {
		return errors.New("there is no other voter that answers")
	}
	var errs []error
	for _, heir := range heirs {
		err := n.transferTo(ctx, heir)
		if err == nil {
			return n.waitForOther(ctx)
		}
		errs = append(errs, fmt.Errorf("to %s: %w", heir.Address, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// heirs are the other voters that answer, the most caught up first; alone says
// that there are no others at all.
func (n *Node) heirs(ctx context.Context) (heirs []raft.Server, alone bool) {
	servers := slices.DeleteFunc(n.servers(), func(s raft.Server) bool { return s.Suffrage != raft.Voter || s.ID == n.server })
	if len(servers) == 0 {
		return nil, true
	}
	var names []string
	for _, s := range servers {
		names = append(names, string(s.Address))
	}
	said := n.identifyAll(ctx, names)
	last := func(s raft.Server) uint64 { return said[string(s.Address)].Last }
	servers = slices.DeleteFunc(servers, func(s raft.Server) bool {
		return said[string(s.Address)].Server != string(s.ID) || last(s) < n.failedTransfers.until(n.raft.CurrentTerm(), s.ID)
	})
	slices.SortFunc(servers, func(a, b raft.Server) int { return cmp.Compare(last(b), last(a)) })
	return servers, false
}

func (n *Node) transferTo(ctx context.Context, heir raft.Server) error {
	ctx, cancel := context.WithTimeout(ctx, n.stuckTransfer()) // Raft has no deadline of its own for the last step
	defer cancel()
	future := n.raft.LeadershipTransferToServer(heir.ID, heir.Address)
	ch := make(chan error, 1)
	if !n.background(func() { ch <- future.Error() }) {
		return errStopping
	}
	term, last := n.raft.CurrentTerm(), n.raft.LastIndex()
	var err error
	select {
	case err = <-ch:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		n.failedTransfers.add(term, heir.ID, last)
	}
	return err
}

// failedTransfers are those of one term. Of each there may be something left for
// Raft's goroutine that sends entries to the heir, and if there is when another one
// to the same heir ends with the leadership, Raft believes for ever that a transfer
// is under way (hashicorp/raft #696). So the heir must have been sent entries since.
type failedTransfers struct {
	mu   sync.Mutex
	term uint64
	last map[raft.ServerID]uint64 // the leader's last entry at that time
}

func (f *failedTransfers) add(term uint64, heir raft.ServerID, last uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.term != term {
		f.term, f.last = term, make(map[raft.ServerID]uint64)
	}
	f.last[heir] = last
}

// until is the entry that a server must have to be an heir.
func (f *failedTransfers) until(term uint64, heir raft.ServerID) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.term != term {
		return 0
	}
	return f.last[heir]
}

func (n *Node) waitForOther(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.roundTimeout())
	defer cancel()
	for {
		l := n.leader.Load()
		if l.ID != "" && !l.Self {
			return nil
		}
		select {
		case <-l.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Shutdown hands over leadership, answers what is under way and stops. When ctx
// ends first, what still runs is left as it is and the process should end. Only
// the first call does anything.
func (n *Node) Shutdown(ctx context.Context) (err error) {
	n.shutdown.Do(func() {
		if n.Err() == nil {
			if err := n.Transfer(ctx); err != nil {
				n.log.Warn("leadership was not handed over", "err", err)
			}
		}
		err = n.stop(ctx)
		n.ended.Do(func() { close(n.done) })
	})
	return err
}

func (n *Node) stop(ctx context.Context) error {
	n.stopping.Store(true)
	n.proposer.close()
	n.hub.close()
	n.runningMu.Lock()
	close(n.quit)
	n.runningMu.Unlock()
	n.cancel()
	if err := within(ctx, func() error { n.running.Wait(); return nil }); err != nil {
		return fmt.Errorf("waiting for what is under way: %w", err)
	}
	n.link.Refuse()
	if err := within(ctx, n.raft.Shutdown().Error); err != nil {
		return fmt.Errorf("stopping Raft: %w", err)
	}
	n.link.Close()
	if err := within(ctx, n.closeFiles); err != nil {
		return fmt.Errorf("closing files: %w", err)
	}
	return nil
}

func (n *Node) closeFiles() error {
	var errs []error
	if n.fsm != nil {
		errs = append(errs, n.fsm.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if n.dir != nil {
		errs = append(errs, n.dir.Close())
	}
	return errors.Join(errs...)
}

// abandon undoes a start that has failed.
func (n *Node) abandon() {
	if n.raft != nil {
		n.raft.Shutdown().Error()
	}
	if n.link != nil {
		n.link.Close()
	}
	n.closeFiles()
}

// within waits for f until ctx ends; f is then left behind.
func within(ctx context.Context, f func() error) error {
	ch := make(chan error, 1)
	go func() { ch <- f() }()
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
