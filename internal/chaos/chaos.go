// Package chaos keeps a cluster busy while its nodes are made to fail one after
// the other, and says whether it kept its promises.
//
// Senders and readers talk to the cluster through the client library, as any
// program would. Who they are talking to and how a node is made to fail are the
// caller's affair: see [Client] and [Target].
package chaos

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/check"
)

// Client is a connection to the cluster that survives failovers.
type Client interface {
	parley.Service
	// Receive yields the mail after a position, and acknowledges a message when
	// the next one is asked for.
	Receive(ctx context.Context, user string, from parley.Cursor) iter.Seq2[parley.Message, error]
	Close() error
}

// Target is what can be done to the cluster's nodes. The methods are not called
// concurrently.
type Target interface {
	// Fail makes a node fail. When it returns, the node takes part no more.
	Fail(ctx context.Context, node string, fault Fault) error
	// Repair makes a failed node work again. It need not wait until it does.
	Repair(ctx context.Context, node string, fault Fault) error
}

// Config says what to do to which cluster.
type Config struct {
	Dial   func() (Client, error) // makes a client; called for each sender and reader
	Target Target
	// SlowTarget: a good part of the time that Target.Fail takes, the node still
	// works. See [Failure].Gap.
	SlowTarget bool

	// Steady: no failures; instead, an election without a cause is an error. For
	// finding out whether the cluster's timings hold under load.
	Steady      bool
	Faults      []Fault       // what happens to nodes, in turns; nil: Kill
	OnlyLeaders bool          // only to leaders; otherwise now and then to another node
	Kills       int           // the load ends after so many failures, if Duration is not over before; 0: no such limit
	Duration    time.Duration // how long the load runs; 0: 60 s
	KillEvery   time.Duration // from one failure to the next; 0: 5 s
	Down        time.Duration // from failure to repair; 0: 1 s
	Frozen      time.Duration // the same for Freeze; 0: 3 s
	Senders     int           // senders, and as many mailboxes; 0: 8
	Rate        float64       // messages per second, all senders together; 0: as many as the cluster takes
	Patience    time.Duration // with a cluster that does not heal or drain; 0: 60 s

	// Events, if set, is told what happens. It is called from one goroutine at a
	// time and must not block.
	Events func(Event)
}

// Event is something that happened to the cluster.
type Event struct {
	At      time.Duration // since the load began
	Kind    EventKind
	Failure Failure // EventFailure, EventGap, EventRepair
	Detail  string  // EventTrouble
}

// EventKind tells events apart.
type EventKind int

// The kinds of events.
const (
	EventFailure EventKind = iota // a node was made to fail
	EventGap                      // the first write after it was acknowledged
	EventRepair                   // it was repaired
	EventDrain                    // the load has ended, mail is read to the end
	EventTrouble                  // a sender or reader got an unexpected answer
)

// Report is the outcome of a run.
type Report struct {
	check.Verdict
	Failures  []Failure
	Elections int      // by how much the term grew
	Problems  []string // the first things that went wrong, in words
}

// window is the number of messages that one sender has under way at most.
const window = 256

// Run is one run, made by [New]. Its other methods may be called from any
// goroutine while [Run.Do] works.
type Run struct {
	cfg   Config
	id    string // makes the names of this run its own
	log   *check.Log
	gaps  gaps
	began atomic.Int64 // Unix nanoseconds; 0: not yet

	admin   Client
	session *parley.Session // over admin

	mu      sync.Mutex
	members []parley.Member
	terms   [2]uint64 // the first and the highest that was heard of; 0: none
	down    map[string]bool
	events  sync.Mutex
}

// New returns a run that has not begun.
func New(cfg Config) (*Run, error) {
	if cfg.Dial == nil || cfg.Target == nil {
		return nil, errors.New("chaos: no cluster given")
	}
	if cfg.Duration < 0 || cfg.KillEvery < 0 || cfg.Down < 0 || cfg.Frozen < 0 || cfg.Kills < 0 || cfg.Senders < 0 || cfg.Rate < 0 || cfg.Patience < 0 {
		return nil, errors.New("chaos: negative value")
	}
	setDefault(&cfg.Duration, time.Minute)
	setDefault(&cfg.KillEvery, 5*time.Second)
	setDefault(&cfg.Down, time.Second)
	setDefault(&cfg.Frozen, 3*time.Second)
	setDefault(&cfg.Senders, 8)
	setDefault(&cfg.Patience, time.Minute)
	if len(cfg.Faults) == 0 {
		cfg.Faults = []Fault{Kill}
	}
	if err := cfg.checkFaults(); err != nil {
		return nil, err
	}
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	return &Run{cfg: cfg, id: hex.EncodeToString(id), log: check.NewLog(), down: make(map[string]bool)}, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Do runs the load and the failures, waits until all mail has been read, and
// reports. When ctx ends, the load ends early and the rest follows, within ten
// seconds. An error means that there is no verdict, because the run could not
// begin, or the cluster did not heal or drain; the report then says how far it
// came.
func (r *Run) Do(ctx context.Context) (Report, error) {
	admin, err := r.cfg.Dial()
	if err != nil {
		return Report{}, err
	}
	defer admin.Close()
	r.admin, r.session = admin, parley.NewSession(admin)
	if err := r.createUsers(ctx); err != nil {
		return Report{}, err
	}
	err = r.run(ctx)
	r.deleteUsers(ctx)
	report := Report{Verdict: r.log.Verdict(), Failures: r.gaps.all(), Elections: r.elections(), Problems: r.log.Problems()}
	if err == nil && report.Acknowledged == 0 {
		err = errors.New("nothing was acknowledged: the run proves nothing")
	}
	return report, err
}

// run is Do between the creation and the deletion of the users.
func (r *Run) run(ctx context.Context) error {
	end, cancel := context.WithCancel(context.WithoutCancel(ctx)) // of everything
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()

	background.Go(func() { r.follow(end) })
	for i := range r.cfg.Senders {
		reader, err := r.newReader(i)
		if err != nil {
			return err
		}
		background.Go(func() { reader.run(end) })
	}

	stop, stopSending := context.WithCancel(ctx)
	defer stopSending()
	var senders sync.WaitGroup
	all := make([]*sender, r.cfg.Senders)
	for i := range all {
		var err error
		if all[i], err = r.newSender(i); err != nil {
			return err
		}
		defer all[i].close()
	}
	r.began.Store(time.Now().UnixNano())
	for _, s := range all {
		senders.Go(func() { s.run(stop, end) })
	}
	var err error
	if r.cfg.Steady {
		err = r.steady(ctx)
	} else {
		err = r.failures(ctx)
	}
	stopSending()

	r.event(Event{Kind: EventDrain})
	patience := r.cfg.Patience
	if ctx.Err() != nil {
		patience = min(patience, 10*time.Second)
	}
	drain, cancelDrain := context.WithTimeoutCause(end, patience, fmt.Errorf("not drained within %v", patience))
	defer cancelDrain()
	context.AfterFunc(drain, cancel) // also ends senders that wait for answers
	senders.Wait()
	return errors.Join(err, r.drain(drain))
}

// Elapsed returns how long the load has been running.
func (r *Run) Elapsed() time.Duration {
	began := r.began.Load()
	if began == 0 {
		return 0
	}
	return time.Since(time.Unix(0, began))
}

func (r *Run) event(e Event) {
	if r.cfg.Events == nil {
		return
	}
	e.At = r.Elapsed()
	r.events.Lock()
	defer r.events.Unlock()
	r.cfg.Events(e)
}

// Snapshot is the state of a run at one moment.
type Snapshot struct {
	Elapsed  time.Duration
	Members  []parley.Member // as last heard; those that were made to fail are not reachable
	Verdict  check.Verdict   // Lost counts mail that is still on its way
	Failures []Failure
}

// Snapshot returns the current state.
func (r *Run) Snapshot() Snapshot {
	r.mu.Lock()
	members := append([]parley.Member(nil), r.members...)
	for i := range members {
		if r.down[members[i].ID] {
			members[i].Reachable, members[i].Role = false, parley.RoleUnknown
		}
	}
	r.mu.Unlock()
	return Snapshot{Elapsed: r.Elapsed(), Members: members, Verdict: r.log.Verdict(), Failures: r.gaps.all()}
}
