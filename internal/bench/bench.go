// Package bench puts a measured load on a cluster through the client library, as
// programs would: with sessions, deduplication and acknowledgements.
//
// # What is measured
//
// Time runs from the beginning of the load; the measured part begins after the
// warm-up. The rate counts what was completed within it, the latencies are of
// what was begun within it, however long that took.
//
// At a fixed rate each command has a time at which it is due, and its latency
// counts from then, also when it was begun later because the cluster had not
// answered earlier ones. A cluster that stalls cannot make the load wait politely
// and so look fast ("coordinated omission"). What was due and not even begun when
// the time was up counts as [Report.Behind], and among the latencies with the time
// that it had waited.
package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
)

// Client is a connection to the cluster that survives failovers.
type Client interface {
	parley.Service
	// Receive yields the mail after a position, and acknowledges a message when
	// the next one is asked for.
	Receive(ctx context.Context, user string, from parley.Cursor) iter.Seq2[parley.Message, error]
	// Trouble says why there is no connection; nil if there is one.
	Trouble() error
	Close() error
}

// Dial makes a client. connected is told when it gets (true) or loses (false) a
// connection, and does not block; it may be nil.
type Dial func(connected func(bool)) (Client, error)

// Mode says what the load consists of.
type Mode string

// The modes.
const (
	Send  Mode = "send"  // messages, until they are acknowledged
	E2E   Mode = "e2e"   // messages, until a reader of the mailbox has been shown them
	Mixed Mode = "mixed" // four messages, then one look into an inbox
	Idle  Mode = "idle"  // connections that do nothing
	List  Mode = "list"  // pages of the list of users
)

// Modes lists the modes.
func Modes() []Mode { return []Mode{Send, E2E, Mixed, Idle, List} }

// The bounds of a [Config].
const (
	MaxWindow   = 4096   // commands of one session that servers keep replies for
	MaxSenders  = 60_000 // local ports towards one server
	MinE2EBytes = 16     // a message measured from end to end says which one it is
)

// Config says which load to put on which cluster.
type Config struct {
	Dial Dial // for each sender and each reader; must allow Window commands under way
	// DialReader is Dial for the readers of mode E2E, which may be somewhere else;
	// nil: Dial.
	DialReader Dial
	// Memory, if set, says how many bytes each node uses. It is asked before the
	// load and at its end.
	Memory func(context.Context) ([]Memory, error)

	Mode     Mode          // "": Send
	Senders  int           // clients, each with a connection and a session; 0: 16
	Window   int           // commands that a sender has under way; 0: 16
	Size     int           // bytes of a message; 0: 100
	Users    int           // mailboxes, made for the run and deleted afterwards; 0: 64
	Rate     float64       // commands per second, all senders together; 0: as many as the cluster takes
	Warmup   time.Duration // load before the measured part; 0: none
	Duration time.Duration // measured part; 0: 10 s
	Patience time.Duration // with a cluster that does not answer, before and after the load; 0: 10 s
	Pattern  string        // List: only users whose names match
	Page     int           // List: most names in a page; 0: as many as the service gives

	// Existing, if set, is what the names of Users mailboxes begin with that exist
	// already ([Fill]): the run uses them, and neither makes nor deletes any.
	Existing string
	// Keep leaves the mail unread. Otherwise a run without readers acknowledges it
	// now and then, so that no mailbox fills up.
	Keep bool
	// Observe, if set, is told of each command completed in the measured part: when
	// it was begun, or due, and what it took. It is called by several goroutines and
	// must not block.
	Observe func(begun time.Time, took time.Duration)

	// Progress, if set, is told how it goes, once per second, and must not block for long.
	Progress func(Point)
}

// Memory is what a node uses.
type Memory struct {
	Node  string
	Bytes int64
}

// Point sums up one second.
type Point struct {
	T        time.Duration // its end, since the measured part began; up to 0 while warming up
	Rate     float64       // completed per second
	P50, P99 time.Duration // of what was completed
}

// Latency sums up latencies.
type Latency struct{ P50, P90, P99, P999, Max time.Duration }

// Part is one kind of command's share.
type Part struct {
	Rate    float64
	Latency Latency
}

// Report is what came out.
type Report struct {
	Elapsed time.Duration // length of the measured part; shorter than asked for after an interruption
	Done    int64         // completed within it
	Rate    float64       // Done per second
	Latency Latency
	Errors  int64 // begun within it and refused, failed or never shown
	Behind  int64 // at a fixed rate: due within it and not begun in time
	Lost    int64 // connections lost during the run
	Series  []Point

	Sends, Reads *Part // Mixed: the two kinds apart

	Opened, Stayed int // Idle: connections made, and those that were never lost

	Before, After []Memory
	Problems      []string // the first errors of each kind, in words
}

func (cfg Config) withDefaults() (Config, error) {
	setDefault(&cfg.Mode, Send)
	setDefault(&cfg.Senders, 16)
	setDefault(&cfg.Window, 16)
	setDefault(&cfg.Size, 100)
	setDefault(&cfg.Users, 64)
	setDefault(&cfg.Duration, 10*time.Second)
	setDefault(&cfg.Patience, 10*time.Second)
	if cfg.DialReader == nil {
		cfg.DialReader = cfg.Dial
	}
	switch {
	case cfg.Dial == nil:
		return cfg, errors.New("bench: no cluster given")
	case !slices.Contains(Modes(), cfg.Mode):
		return cfg, fmt.Errorf("bench: mode %q is unknown", cfg.Mode)
	case cfg.Senders < 0 || cfg.Senders > MaxSenders:
		return cfg, fmt.Errorf("bench: %d senders: want 1 to %d", cfg.Senders, MaxSenders)
	case cfg.Window < 0 || cfg.Window > MaxWindow:
		return cfg, fmt.Errorf("bench: window %d: want 1 to %d", cfg.Window, MaxWindow)
	case cfg.Mode == E2E && cfg.Size < MinE2EBytes:
		return cfg, fmt.Errorf("bench: size %d: want at least %d", cfg.Size, MinE2EBytes)
	case cfg.Size < 0 || cfg.Users < 0 || cfg.Rate < 0 || cfg.Page < 0 || cfg.Warmup < 0 || cfg.Duration < 0 || cfg.Patience < 0:
		return cfg, errors.New("bench: negative value")
	}
	return cfg, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// run is one run.
type run struct {
	cfg      Config
	id       string // makes the names of this run its own
	body     string
	m        *meter
	boxes    []mailbox
	senders  []*sender
	lost     atomic.Int64
	problems problems
	acks     chan ack

	admin   Client
	session *parley.Session // over admin

	before, after  []Memory
	opened, stayed int
}

// Run puts the load on the cluster and reports. When ctx ends, so does the load;
// the report is then about what there was. Users and sessions of the run are
// removed in any case. An error means that the load could not be put on, was
// interrupted, or that nothing of it was answered.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Report{}, err
	}
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	r := &run{cfg: cfg, id: hex.EncodeToString(id), body: strings.Repeat("x", cfg.Size), acks: make(chan ack, 1024)}
	r.m = newMeter(cfg.Warmup, cfg.Warmup+cfg.Duration)
	r.m.observe = cfg.Observe
	if cfg.Mode == Idle {
		err = r.idle(ctx)
	} else {
		err = r.withUsers(ctx)
	}
	report := r.report()
	switch {
	case err != nil:
	case ctx.Err() != nil:
		err = fmt.Errorf("interrupted: %w", ctx.Err())
	case report.Done == 0 && len(report.Problems) > 0:
		err = fmt.Errorf("nothing was answered: %s", report.Problems[0])
	case report.Done == 0:
		err = parley.Errorf(parley.CodeNoQuorum, "nothing was answered within %v", cfg.Duration)
	}
	return report, err
}

// withUsers makes the mailboxes, puts the load on, and removes them.
func (r *run) withUsers(ctx context.Context) (err error) {
	if err := r.sample(ctx, &r.before); err != nil {
		return err
	}
	if r.admin, err = r.cfg.Dial(nil); err != nil {
		return err
	}
	defer func() { _ = r.admin.Close() }()
	r.session = parley.NewSession(r.admin)
	r.boxes = r.mailboxes()
	if r.cfg.Existing != "" {
		defer r.closeSession(ctx)
		return r.load(ctx)
	}
	err = r.createUsers(ctx)
	if err == nil {
		err = r.load(ctx)
	}
	if deleteErr := r.deleteUsers(ctx); deleteErr != nil && err == nil {
		err = deleteErr
	} else if deleteErr != nil {
		r.problems.add("clean up", deleteErr)
	}
	return err
}

// sample asks for the nodes' memory.
func (r *run) sample(ctx context.Context, into *[]Memory) (err error) {
	if r.cfg.Memory == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Patience)
	defer cancel()
	*into, err = r.cfg.Memory(ctx)
	return err
}

// connection is what a client of the run is told about its connection.
func (r *run) connection(connected bool) {
	if !connected {
		r.lost.Add(1)
	}
}

func (r *run) report() Report {
	report := r.m.report()
	report.Lost = r.lost.Load()
	report.Opened, report.Stayed = r.opened, r.stayed
	report.Before, report.After = r.before, r.after
	report.Problems = r.problems.list()
	if r.cfg.Mode != Mixed {
		report.Sends, report.Reads = nil, nil
	}
	return report
}
