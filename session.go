package parley

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/internal/pause"
)

// Session runs commands exactly once and in order over any [Service]: it opens
// a session on first use, numbers the commands, and starts a command again
// under the same number until it has an answer or its context ends. Commands
// that wait for their next try are started again together, lowest number first,
// and later commands queue up behind them.
//
// Safe for concurrent use. It owns no goroutine; commands that wait are held by
// a timer. It buffers what its callers start and has no limit of its own.
type Session struct {
	svc Service

	// order holds a token while commands are numbered and started, so that
	// numbers and starts have the same order. It is taken before mu, and never by
	// an outcome, which may come inside Service.Start. A channel and not a mutex,
	// so that those who wait for a session to be opened can give up.
	order chan struct{}

	mu     sync.Mutex
	cur    *epoch // the open session, nil before first use
	closed bool
	vigils map[<-chan struct{}]*vigil // by Done channel; nil until there is one
	spare  *vigil                     // for the next context, may be nil
}

// epoch is the bookkeeping of one replicated session. Guarded by Session.mu. A
// command in open is flying, or waiting, or about to be one of them while order
// is held.
type epoch struct {
	s        *Session
	id       SessionID
	next     uint64              // number of the next command
	answered uint64              // all numbers up to it are settled
	open     map[uint64]*attempt // commands not settled, by number
	flying   int                 // how many of them the service has
	waiting  []*attempt          // those to be started (again), unsorted, with some that were settled meanwhile
	timer    bool                // resend is going to be called
	tries    int                 // resends since the last answer
	expired  bool                // unknown to the service; replaced once nothing flies any more
}

// attempt is one command on its way to an answer.
type attempt struct {
	ctx  context.Context // of the call that this attempt stands for
	cmd  Command
	done func(Result, error)
	s    *Session

	// Guarded by Session.mu. While the command flies, ep and seq stay as they are.
	ep      *epoch
	seq     uint64
	vigil   *vigil // over ctx, nil: none (any more)
	place   int    // in vigil.attempts
	flying  bool
	maybe   bool // an earlier try may have taken effect
	settled bool
	last    error // of the last try
}

// NewSession returns a Session over svc. Nothing is sent before its first use.
func NewSession(svc Service) *Session {
	return &Session{svc: svc, order: make(chan struct{}, 1)}
}

// Do runs a command and waits. The error is nil for every answer, refusals
// included. [CodeOutcomeUnknown] means that the session expired or was closed
// while the command was under way; [CodeNoQuorum] that ctx's deadline passed
// first, in which case the command may still take effect. Nothing is sent again
// after Do has returned.
func (s *Session) Do(ctx context.Context, c Command) (Result, error) {
	type outcome struct {
		result Result
		err    error
	}
	ch := make(chan outcome, 1)
	s.Start(ctx, c, func(r Result, err error) { ch <- outcome{r, err} })
	o := <-ch
	return o.result, o.err
}

// Start runs a command without waiting for its outcome: commands started one
// after the other take effect in that order. done is called once, when there is
// an outcome as described at Do or ctx ends. It must not block and must not
// start another command of this session. Start itself blocks only while the
// session is being opened.
func (s *Session) Start(ctx context.Context, c Command, done func(Result, error)) {
	a := &attempt{s: s, ctx: ctx, cmd: c, done: done}
	if !s.lockOrder(ctx) {
		a.giveUp()
		return
	}
	defer s.unlockOrder()
	if ctx.Done() != nil {
		s.mu.Lock()
		s.watch(a)
		s.mu.Unlock()
	}
	s.submit(a)
}

// Close ends the session for good, trying until ctx ends. Commands still under
// way fail with CodeOutcomeUnknown, later ones with CodeBadRequest.
func (s *Session) Close(ctx context.Context) error {
	if !s.lockOrder(ctx) {
		return gaveUp(ctx, nil)
	}
	s.mu.Lock()
	s.closed = true
	ep := s.cur
	s.cur = nil
	var open []*attempt
	if ep != nil {
		for _, a := range ep.open {
			open = append(open, a)
		}
	}
	s.mu.Unlock()
	s.unlockOrder()
	if ep == nil {
		return nil
	}
	sortBySeq(open)
	for _, a := range open {
		a.finish(Result{}, Errorf(CodeOutcomeUnknown, "session %d was closed while the command was under way", ep.id))
	}
	_, err := s.insist(ctx, CloseSession{Session: ep.id})
	return err
}

func (s *Session) lockOrder(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case s.order <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Session) unlockOrder() { <-s.order }

// submit numbers a in the open session and sends it, or has it wait behind
// others. order is held.
func (s *Session) submit(a *attempt) {
	ep, err := s.current(a.ctx)
	if err != nil {
		a.finish(Result{}, err)
		return
	}
	s.mu.Lock()
	if a.settled { // given up meanwhile: it must not take a number that nobody settles
		s.mu.Unlock()
		return
	}
	a.ep, a.seq = ep, ep.next
	ep.next++
	ep.open[a.seq] = a
	wait := len(ep.waiting) > 0
	if wait {
		ep.park(a)
	}
	s.mu.Unlock()
	if !wait {
		a.send()
	}
}

// current returns the open session, after opening one if there is none. order is held.
func (s *Session) current(ctx context.Context) (*epoch, error) {
	s.mu.Lock()
	ep, closed := s.cur, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil, Errorf(CodeBadRequest, "the session has been closed")
	case ep != nil:
		return ep, nil
	}
	r, err := s.insist(ctx, OpenSession{})
	if err != nil {
		return nil, err
	}
	if r.Code != CodeOK {
		return nil, r.Err()
	}
	ep = &epoch{s: s, id: r.Session, next: 1, open: make(map[uint64]*attempt)}
	s.mu.Lock()
	s.cur = ep
	s.mu.Unlock()
	return ep, nil
}

// insist tries a command outside the session until it is answered or ctx ends.
func (s *Session) insist(ctx context.Context, c Command) (Result, error) {
	for try := 0; ; try++ {
		r, err := Do(ctx, s.svc, Request{Command: c})
		if err == nil {
			return r, nil
		}
		if !CodeOf(err).Retryable() {
			return Result{}, err
		}
		if !pause.For(ctx, backoff(try)) {
			return Result{}, gaveUp(ctx, err)
		}
	}
}

// resend starts what waits, in order, under the old numbers or, if the session
// has expired, in a new one.
func (s *Session) resend(ep *epoch) {
	s.order <- struct{}{}
	defer s.unlockOrder()
	s.mu.Lock()
	ep.timer = false
	if ep.expired && ep.flying > 0 { // they may have to go first; the last to land wakes
		s.mu.Unlock()
		return
	}
	waiting := ep.waiting
	ep.waiting = nil
	ep.tries++
	expired := ep.expired
	if expired && s.cur == ep {
		s.cur = nil
	}
	s.mu.Unlock()
	sortBySeq(waiting)
	for _, a := range waiting {
		if expired {
			a.move()
		} else {
			a.send()
		}
	}
}

// park has a wait for the next resend. mu is held.
func (ep *epoch) park(a *attempt) {
	ep.waiting = append(ep.waiting, a)
	ep.wake()
}

// wake sees to it that what waits is resent. mu is held.
func (ep *epoch) wake() {
	if ep.timer || len(ep.waiting) == 0 {
		return
	}
	ep.timer = true
	if ep.expired {
		go ep.s.resend(ep)
		return
	}
	time.AfterFunc(backoff(ep.tries), func() { ep.s.resend(ep) })
}

// landed records that the service has nothing to do with a any more. mu is held.
func (ep *epoch) landed(a *attempt) {
	if a.flying {
		a.flying = false
		ep.flying--
	}
}

// settle records that nobody will ask for a's number again. mu is held.
func (ep *epoch) settle(a *attempt) {
	delete(ep.open, a.seq)
	for ep.answered+1 < ep.next && ep.open[ep.answered+1] == nil {
		ep.answered++
	}
	ep.landed(a)
	ep.wake()
}

// send hands the command to the service. order is held.
func (a *attempt) send() {
	a.s.mu.Lock()
	if a.settled {
		a.s.mu.Unlock()
		return
	}
	a.flying = true
	a.ep.flying++
	r := Request{Session: a.ep.id, Seq: a.seq, Answered: a.ep.answered, Command: a.cmd}
	a.s.mu.Unlock()
	a.s.svc.Start(a.ctx, r, a.outcome)
}

// outcome decides what to do with the outcome of one try. It may be called with
// order held.
func (a *attempt) outcome(r Result, err error) {
	switch {
	case err == nil && !r.Code.SessionOver():
		a.finish(r, nil)
		return
	case err != nil && !CodeOf(err).Retryable():
		a.finish(Result{}, err)
		return
	case err != nil && a.ctx.Err() != nil:
		a.finish(Result{}, gaveUp(a.ctx, err))
		return
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if a.settled {
		return
	}
	if err == nil {
		a.ep.expired = true
	} else {
		a.last = err
		a.maybe = a.maybe || !CodeOf(err).NotApplied()
	}
	a.ep.landed(a)
	a.ep.park(a)
}

// move takes a command out of an expired session: one that cannot have taken
// effect into a new one, any other to an outcome that nobody knows. order is held.
func (a *attempt) move() {
	a.s.mu.Lock()
	maybe := a.maybe
	a.s.mu.Unlock()
	if maybe {
		a.finish(Result{}, Errorf(CodeOutcomeUnknown, "session %d ended while the command was under way", a.ep.id))
		return
	}
	a.s.submit(a)
}

// finish settles the attempt once.
func (a *attempt) finish(r Result, err error) {
	a.s.mu.Lock()
	if a.settled {
		a.s.mu.Unlock()
		return
	}
	a.settled = true
	a.s.unwatch(a)
	if a.ep != nil {
		if err == nil {
			a.ep.tries = 0
		}
		a.ep.settle(a)
	}
	a.s.mu.Unlock()
	a.done(r, err)
}

// giveUp ends an attempt whose context has ended.
func (a *attempt) giveUp() {
	a.s.mu.Lock()
	last := a.last
	a.s.mu.Unlock()
	a.finish(Result{}, gaveUp(a.ctx, last))
}

func sortBySeq(as []*attempt) {
	slices.SortFunc(as, func(a, b *attempt) int { return cmp.Compare(a.seq, b.seq) })
}
