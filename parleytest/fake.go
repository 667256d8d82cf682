// Package parleytest helps to test what is built on [parley.Service]: [Fake] is
// a whole cluster in memory whose failures a test can dictate, and [Run] checks
// that an implementation keeps the interface's promises.
package parleytest

import (
	"context"
	"sync"
	"time"

	"github.com/parley-chat/parley"
)

// Limits bounds what a service keeps. A zero field means the default.
type Limits struct {
	BodyBytes       int // longest text of a message; default 64 KiB
	MailboxMessages int // most unread messages of a user; default 100,000
	MailboxBytes    int // most bytes of unread texts of a user; default 256 MiB
	Users           int // default 1,000,000
	Sessions        int // default 100,000
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.BodyBytes, 64<<10)
	def(&l.MailboxMessages, 100_000)
	def(&l.MailboxBytes, 256<<20)
	def(&l.Users, 1_000_000)
	def(&l.Sessions, 100_000)
	return l
}

// Fault says what goes wrong with one command. The zero Fault is nothing.
type Fault struct {
	// Err is the outcome instead of the command's own.
	Err error
	// Applied: the command takes effect although its outcome is Err, as when a
	// connection breaks before the answer.
	Applied bool
	// Hold withholds the outcome until the channel is closed, the command's
	// context ends or the Fake is closed.
	Hold <-chan struct{}
}

// Fake is a [parley.Service] in memory. It answers at once, in the goroutine
// that asks, unless a [Fault] says otherwise.
//
// One mutex guards all state; a watch copies what it yields, so that a slow
// consumer holds up nobody.
type Fake struct {
	// Now gives messages their time; default time.Now. Set it before use.
	Now func() time.Time

	mu       sync.Mutex
	limits   Limits
	log      uint64 // number of commands so far: the "position in the log"
	stamp    time.Time
	users    map[string]*mailbox // by folded name
	sessions map[parley.SessionID]*session
	members  []parley.Member
	policy   parley.Policy
	invites  map[parley.Hash]parley.Invite
	revision uint64
	onStart  func(parley.Request) Fault
	onGet    func(parley.Query) error
	onWatch  func(user string) error
	watches  int
	ended    chan struct{} // closed to end the watches that run now
	endedBy  error
	closed   chan struct{}

	held sync.WaitGroup // goroutines that withhold an outcome
}

var _ parley.Service = (*Fake)(nil)

// NewFake returns an empty service with the default limits.
func NewFake() *Fake {
	return &Fake{
		Now:      time.Now,
		limits:   Limits{}.withDefaults(),
		users:    make(map[string]*mailbox),
		sessions: make(map[parley.SessionID]*session),
		invites:  make(map[parley.Hash]parley.Invite),
		members:  []parley.Member{{ID: "fake", Role: parley.RoleLeader, Term: 1, Reachable: true}},
		ended:    make(chan struct{}),
		closed:   make(chan struct{}),
	}
}

// Close ends all watches and withheld commands and waits for the latter.
// Everything asked afterwards fails with CodeShuttingDown.
func (f *Fake) Close() {
	f.mu.Lock()
	if !f.isClosed() {
		close(f.closed)
		f.endWatches(shutDown())
	}
	f.mu.Unlock()
	f.held.Wait()
}

// SetLimits replaces the limits. What is already over them stays.
func (f *Fake) SetLimits(l Limits) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limits = l.withDefaults()
}

// SetMembers replaces the answer to [parley.Status].
func (f *Fake) SetMembers(m []parley.Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members = m
}

// OnStart has every command from now on judged by judge, which may be called
// from several goroutines. nil lets all pass.
func (f *Fake) OnStart(judge func(parley.Request) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onStart = judge
}

// OnGet has every query fail with what judge returns, unless that is nil.
func (f *Fake) OnGet(judge func(parley.Query) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onGet = judge
}

// OnWatch has every new watch end at once with what judge returns, unless that
// is nil.
func (f *Fake) OnWatch(judge func(user string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onWatch = judge
}

// EndWatches ends all running watches with err, as the loss of a leader does.
func (f *Fake) EndWatches(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endWatches(err)
}

func (f *Fake) endWatches(err error) {
	f.endedBy = err
	close(f.ended)
	f.ended = make(chan struct{})
}

// Watches returns how many watches are running.
func (f *Fake) Watches() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.watches
}

// Sessions returns how many sessions are open.
func (f *Fake) Sessions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sessions)
}

// ExpireSessions forgets all sessions, as happens to those that are idle for long.
func (f *Fake) ExpireSessions() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.sessions)
}

// Start implements [parley.Service].
func (f *Fake) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	f.mu.Lock()
	judge := f.onStart
	f.mu.Unlock()
	var fault Fault
	if judge != nil {
		fault = judge(r)
	}
	result, err := f.start(ctx, r, fault)
	if fault.Hold == nil {
		done(result, err)
		return
	}
	withhold := func() {
		select {
		case <-fault.Hold:
		case <-ctx.Done():
			result, err = parley.Result{}, ctx.Err()
		case <-f.closed:
			result, err = parley.Result{}, shutDown()
		}
		done(result, err)
	}
	f.mu.Lock()
	open := !f.isClosed()
	if open {
		f.held.Go(withhold) // before Close waits
	}
	f.mu.Unlock()
	if !open {
		withhold()
	}
}

// start carries out r unless something is in the way.
func (f *Fake) start(ctx context.Context, r parley.Request, fault Fault) (parley.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed() {
		return parley.Result{}, shutDown()
	}
	if err := ctx.Err(); err != nil {
		return parley.Result{}, err
	}
	if fault.Err == nil {
		return f.request(r)
	}
	if fault.Applied {
		_, _ = f.request(r) // the outcome is what gets lost
	}
	return parley.Result{}, fault.Err
}

func (f *Fake) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

func shutDown() error { return parley.Errorf(parley.CodeShuttingDown, "the fake is closed") }
