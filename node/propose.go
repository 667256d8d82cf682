package node

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
)

// proposer puts commands into the log, in the order in which they come. It is a
// group commit without a timer: while an entry is under way commands gather, and
// all that wait when it has been committed make the next one. Further entries are
// sent after it only if they are full. (Each entry costs every member work, so
// that many small ones at the same time are slower for everybody.)
//
// The queue is bounded; beyond it commands are refused. Two goroutines: propose
// makes the entries, answer waits for them in order and calls back.
type proposer struct {
	n *Node

	mu       sync.Mutex
	queue    []proposal
	spare    []proposal // empty: memory for the queue, which moves on to entries and comes back
	bytes    int
	underWay int // entries
	closed   bool
	wake     chan struct{} // one token when there may be something to do for propose

	stamp    time.Time     // of the newest entry; propose's own, as long as it takes commands into one
	inflight chan entry    // made by propose, closed by it at its end
	begun    atomic.Uint64 // number of the newest entry

	// marked is the last term in which an entry made here has been applied here.
	// In that term, all that former leaders have committed has been applied, and
	// every index that Raft commits is one that the state machine gets to see.
	marked atomic.Uint64

	// Since when, and in which term, Raft turns entries away for a leadership
	// transfer; answer's own.
	handing     time.Time
	handingTerm uint64
}

// proposal is a command, or an operation of the node itself, on its way.
type proposal struct {
	ctx   context.Context // of the call that it stands for
	req   parley.Request
	admin func(*fsm.Batch) // instead of req; adds at most one operation
	size  int
	done  func(parley.Result, error)
}

// entry is a log entry under way.
type entry struct {
	number uint64
	future raft.ApplyFuture
	term   uint64
	begun  time.Time
	ops    []proposal // for each operation in it
	after  []proposal // of the node itself, that had nothing to add
}

func newProposer(n *Node) *proposer {
	return &proposer{
		n: n, wake: make(chan struct{}, 1), inflight: make(chan entry, n.cfg.InFlight),
	}
}

// start queues a command.
func (p *proposer) start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	p.enqueue(proposal{ctx: ctx, req: r, size: sizeOf(r.Command), done: done})
}

// admin runs an operation of the node itself: add adds at most one to an entry.
func (p *proposer) admin(ctx context.Context, add func(*fsm.Batch)) error {
	ch := make(chan error, 1)
	p.enqueue(proposal{ctx: ctx, admin: add, done: func(_ parley.Result, err error) { ch <- err }})
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *proposer) enqueue(c proposal) {
	p.mu.Lock()
	var refusal *parley.Error
	switch {
	case p.closed:
		refusal = errStopping
	case c.admin == nil && (len(p.queue) >= p.n.cfg.QueueCommands || p.bytes+c.size > p.n.cfg.QueueBytes):
		refusal = parley.Errorf(parley.CodeOverloaded, "%d commands wait for the log", len(p.queue))
	default:
		p.queue = append(p.queue, c)
		p.bytes += c.size
	}
	ready := p.ready()
	p.mu.Unlock()
	if refusal != nil {
		c.done(parley.Result{}, refusal)
		return
	}
	if ready {
		signal(p.wake)
	}
}

// ready reports whether an entry is to be made: when none is under way, or when
// it would be full. mu is held.
func (p *proposer) ready() bool {
	switch commands := len(p.queue); {
	case commands == 0:
		return false
	case p.underWay == 0:
		return true
	case p.underWay == p.n.cfg.InFlight:
		return false
	default:
		return commands >= p.n.cfg.BatchCommands || p.bytes >= p.n.cfg.BatchBytes
	}
}

// signal leaves a token in a channel that holds one.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// sizeOf is about what a command costs in memory and in the log.
func sizeOf(c parley.Command) int {
	const overhead = 128
	switch c := c.(type) { // names are as long as the client wants, until the state machine refuses them
	case parley.CreateUser:
		return overhead + len(c.Name)
	case parley.DeleteUser:
		return overhead + len(c.Name)
	case parley.Send:
		return overhead + len(c.From) + len(c.To) + len(c.Body)
	case parley.Ack:
		return overhead + len(c.User)
	case parley.StoreUser:
		return overhead + len(c.Name) + len(c.Verifier)
	case parley.StorePassword:
		return overhead + len(c.User) + len(c.Verifier)
	case parley.AddToken:
		return overhead + len(c.User) + len(c.Token.Label)
	case parley.RevokeToken:
		return overhead + len(c.User)
	}
	return overhead
}

// waiting is how many commands are queued.
func (p *proposer) waiting() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return uint64(len(p.queue))
}

// close refuses what comes, and lets propose end after what is queued.
func (p *proposer) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	signal(p.wake)
}

// propose makes entries until the proposer is closed.
func (p *proposer) propose() {
	defer close(p.inflight)
	var batch fsm.Batch
	for p.waitForWork() {
		p.stamp = p.after(p.stamp)
		e := p.take(&batch)
		if len(e.ops) == 0 && e.after == nil {
			p.settled() // all were answered without the log
			continue
		}
		e.term, e.begun = p.n.raft.CurrentTerm(), time.Now()
		e.number = p.begun.Add(1)
		p.n.meters.batch(len(e.ops))
		e.future = p.n.raft.Apply(bytes.Clone(batch.Encode(p.stamp)), p.n.cfg.ProposeTimeout)
		p.inflight <- e
	}
}

// after is the time for the entry after the one stamped with last: now, but where the
// clock went back, or is behind a former leader's, the next instant. So the state's
// time never stands still.
func (p *proposer) after(last time.Time) time.Time {
	if now := p.n.fsm.Now(); now.After(last) {
		last = now
	}
	if now := time.Now().Round(0); now.After(last) { // the wall clock, not the monotonic one
		return now
	}
	return last.Add(1)
}

// waitForWork waits until an entry is to be made, which then counts as under way.
// It returns false at the end.
func (p *proposer) waitForWork() bool {
	for {
		p.mu.Lock()
		ready, end := p.ready(), p.closed && len(p.queue) == 0
		if ready {
			p.underWay++
		}
		p.mu.Unlock()
		if ready || end {
			return ready
		}
		<-p.wake
	}
}

// settled notes that an entry is not under way any more.
func (p *proposer) settled() {
	p.mu.Lock()
	p.underWay--
	ready := p.ready()
	p.mu.Unlock()
	if ready {
		signal(p.wake)
	}
}

// take moves what fits from the queue into the batch.
func (p *proposer) take(batch *fsm.Batch) (e entry) {
	batch.Reset()
	for {
		chunk := p.pop(p.n.cfg.BatchCommands-batch.Len(), p.n.cfg.BatchBytes-batch.Size())
		if len(chunk) == 0 {
			return e
		}
		if e.ops == nil {
			e.ops = chunk[:0] // those that are added go where they are
		}
		for i := range chunk {
			p.add(batch, &e, &chunk[i])
		}
	}
}

// pop removes the oldest commands from the queue: up to most, and no more once
// they are larger than size.
func (p *proposer) pop(most, size int) []proposal {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := 0
	for k < len(p.queue) && k < most && size > 0 {
		size -= p.queue[k].size
		p.bytes -= p.queue[k].size
		k++
	}
	chunk := p.queue[:k:k]
	p.queue = p.queue[k:]
	if len(p.queue) == 0 {
		p.queue, p.spare = p.spare, nil
	}
	return chunk
}

// add puts one command into the batch, or answers it.
func (p *proposer) add(batch *fsm.Batch, e *entry, c *proposal) {
	if c.ctx.Err() != nil {
		c.done(parley.Result{}, parley.Errorf(parley.CodeOverloaded, "given up while it waited for the log: %v", context.Cause(c.ctx)))
		return
	}
	before := batch.Len()
	if c.admin != nil {
		c.admin(batch)
		if batch.Len() == before {
			e.after = append(e.after, *c)
			return
		}
	} else if answer, answered := batch.Add(c.req); answered {
		c.deliver(answer)
		return
	}
	e.ops = append(e.ops, *c)
}

// deliver calls back with an answer, or with the error that it stands for.
func (c *proposal) deliver(r parley.Result) {
	switch {
	case !r.Code.IsAnswer():
		c.done(parley.Result{}, &parley.Error{Code: r.Code, Detail: r.Detail})
	case c.admin != nil:
		c.done(r, nil)
	default:
		c.done(explained(r, c.req), nil)
	}
}

// answer waits for the entries and calls back, until propose has ended.
func (p *proposer) answer() {
	for e := range p.inflight {
		err := e.future.Error()
		p.settled()
		results, err := p.outcome(e, err)
		p.n.meters.committed(e.begun, err)
		for i := range e.ops {
			if err != nil {
				e.ops[i].done(parley.Result{}, err)
			} else {
				e.ops[i].deliver(results[i])
			}
		}
		for i := range e.after {
			e.after[i].done(parley.Result{}, err)
		}
		p.reuse(e.ops)
	}
}

// reuse takes back the memory of an entry that has been answered.
func (p *proposer) reuse(ops []proposal) {
	clear(ops[:cap(ops)])
	p.mu.Lock()
	defer p.mu.Unlock()
	if cap(ops) > cap(p.spare) {
		p.spare = ops[:0]
	}
}

func (p *proposer) outcome(e entry, err error) ([]parley.Result, error) {
	p.watchTransfer(e.term, err)
	if err != nil {
		return nil, p.n.proposeError(err)
	}
	switch r := e.future.Response().(type) {
	case []parley.Result:
		if len(r) != len(e.ops) {
			return nil, parley.Errorf(parley.CodeInterrupted, "%d results for %d commands", len(r), len(e.ops))
		}
		if e.term == p.n.raft.CurrentTerm() { // then it is the entry's own term, too
			p.marked.Store(e.term)
			if e.number == p.begun.Load() {
				p.n.notices.applied(committed{e.number, e.term, e.future.Index()})
			}
		}
		return r, nil
	case error:
		return nil, parley.Errorf(parley.CodeInterrupted, "applying the entry: %v", r)
	}
	return nil, parley.Errorf(parley.CodeInterrupted, "the entry has no results")
}

// watchTransfer ends the node when Raft goes on turning entries away for a
// leadership transfer that must have ended long ago (hashicorp/raft #696). Entries
// that are turned away in another term are so for another transfer: in between,
// this node may have had nothing to propose.
func (p *proposer) watchTransfer(term uint64, err error) {
	switch {
	case !errors.Is(err, raft.ErrLeadershipTransferInProgress):
		p.handing = time.Time{}
	case p.handing.IsZero() || p.handingTerm != term:
		p.handing, p.handingTerm = time.Now(), term
	case time.Since(p.handing) > p.n.stuckTransfer():
		p.n.fatal(&advised{errors.New("a leadership transfer does not end (hashicorp/raft #696)"), "start the node again"})
	}
}

// proposeError is Raft's error in our terms: whether the command was certainly
// not applied, or nobody knows yet.
func (n *Node) proposeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return n.notLeader()
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return parley.Errorf(parley.CodeNotLeader, "leadership is being handed over")
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return parley.Errorf(parley.CodeOverloaded, "Raft took no entry within %v", n.cfg.ProposeTimeout)
	}
	return parley.Errorf(parley.CodeInterrupted, "%v", err) // it may be in the log
}
