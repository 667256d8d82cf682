package lab

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/internal/check"
	"github.com/parley-chat/parley/node"
)

// Episode is one run of one cluster.
type Episode struct {
	Seed uint64
	Dir  string // for the members' data; must exist
	Only []int  // numbers of the faults that happen; nil: all

	members  int
	store    node.LogStore
	trailing uint64 // log entries that are kept behind a checkpoint; 0: more than an episode has
	length   time.Duration
	faults   []Fault

	flushes  *flushes
	net      *Net
	cluster  *Cluster
	load     *Load
	history  *check.History
	log      *check.Log
	replicas *check.Replicas
	trace    *trace
	began    time.Time
	took     time.Duration
	applied  uint64         // up to where the states of all members went at the end
	done     map[string]int // faults that happened, by kind
	problems []string
}

// How soon a cluster must be well again when nothing is wrong any more.
const (
	electsWithin = rpcBreaks + 2*time.Second // commands are answered: all that a leader had sent may be lost in the last cut
	healsWithin  = 30 * time.Second          // no member is behind, all mail is read
	startsWithin = 30 * time.Second
	drains       = 30 * time.Second // what is still under way between processes that are dead; a goroutine that is left then makes the bubble panic
)

// NewEpisode decides what is going to happen.
func NewEpisode(seed uint64, dir string) *Episode {
	rng := rand.New(rand.NewPCG(seed, 0))
	e := &Episode{Seed: seed, Dir: dir, members: 3, store: node.LogBolt, done: make(map[string]int)}
	if rng.IntN(3) == 0 {
		e.members = 5
	}
	if rng.IntN(4) == 0 {
		e.store = node.LogWAL
	}
	e.length = 3*time.Second + time.Duration(rng.Int64N(int64(9*time.Second)))
	e.faults = schedule(rng, e.length)
	if rng.IntN(2) == 0 {
		e.trailing = 20 + rng.Uint64N(200)
	}
	e.history, e.log, e.replicas = check.NewHistory(), check.NewLog(), check.NewReplicas()
	e.trace = &trace{}
	e.flushes, _ = watchFlushes() // without it no power is lost and no disk fails
	return e
}

// Faults are those that are to happen.
func (e *Episode) Faults() []Fault {
	return slices.DeleteFunc(slices.Clone(e.faults), func(f Fault) bool {
		return e.Only != nil && !slices.Contains(e.Only, f.Number)
	})
}

// Run lets it happen. It is called in a bubble, and leaves no goroutine behind.
// Judge comes after it, outside.
func (e *Episode) Run() {
	logger := slog.New(slog.NewTextHandler(e.trace, nil))
	rng := rand.New(rand.NewPCG(e.Seed, 2))
	e.net = NewNet(rand.New(rand.NewPCG(e.Seed, 3)))
	e.cluster = &Cluster{
		net: e.net, dir: e.Dir, store: e.store, log: logger, replicas: e.replicas, flushes: e.flushes,
		trailing: e.trailing,
		members:  make(map[string]*member), copies: copies{rng: rng, tries: make(map[string]int)},
	}
	for i := range e.members {
		e.cluster.names = append(e.cluster.names, fmt.Sprint("n", i+1))
	}
	stop, stopWriting := context.WithCancel(context.Background())
	end, stopReading := context.WithCancel(context.Background())
	e.load = &Load{net: e.net, members: e.cluster.names, seed: e.Seed, history: e.history, log: e.log, stop: stop, end: end}
	defer func() {
		stopWriting()
		e.load.writers.Wait()
		stopReading()
		e.load.readers.Wait()
		e.cluster.Close()
		e.net.KillAll()
		time.Sleep(drains)
		e.problems = append(e.problems, e.cluster.Problems()...)
	}()
	start := time.Now()
	for _, name := range e.cluster.names {
		if err := e.cluster.Start(name); err != nil {
			e.problem("%s does not start: %v", name, err)
			return
		}
	}
	if !within(startsWithin, func() bool { return e.cluster.leader() != "" }) {
		e.problem("no leader within %v of the first start", startsWithin)
		return
	}
	if err := e.load.Run(); err != nil {
		e.problem("creating the mailboxes: %v", err)
		return
	}
	e.began = time.Now()
	e.storm(logger)
	e.recover(stopWriting)
	e.took = time.Since(start)
}

// storm carries out the faults, one after the other, and makes them good.
func (e *Episode) storm(logger *slog.Logger) {
	type event struct {
		at  time.Duration
		do  func()
		say string
	}
	s := &storm{c: e.cluster, busy: make(map[string]bool), done: e.done, clients: e.net.Hosts(e.cluster.names)}
	s.note = func(format string, args ...any) { logger.Info("lab: " + fmt.Sprintf(format, args...)) }
	var events []event
	for _, f := range e.Faults() {
		events = append(events, event{f.At, func() {
			if heal := s.happen(f); heal != nil {
				e.done[f.Kind]++
				events = append(events, event{f.At + f.For, heal, fmt.Sprintf("fault %v is over", f)})
			} else {
				s.note("it cannot happen now")
			}
		}, fmt.Sprintf("fault %v", f)})
	}
	for len(events) > 0 {
		slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
		next := events[0]
		events = events[1:]
		time.Sleep(time.Until(e.began.Add(next.at)))
		s.note("%s", next.say)
		next.do()
	}
	if rest := time.Until(e.began.Add(e.length)); rest > 0 {
		time.Sleep(rest)
	}
	s.note("nothing is wrong any more")
}

// recover wants a cluster that has healed, and compares its members.
func (e *Episode) recover(stopWriting func()) {
	healed := time.Now()
	before := e.log.Verdict().Acknowledged
	if !within(electsWithin, func() bool { return e.log.Verdict().Acknowledged > before }) {
		e.problem("no message is acknowledged within %v of the last fault's end", electsWithin)
	}
	stopWriting()
	e.load.writers.Wait()
	var last string
	if !within(healsWithin-min(time.Since(healed), healsWithin/2), func() bool { last = e.behind(); return last == "" }) {
		e.problem("still not well %v after the last fault's end: %s", time.Since(healed), last)
	}
	if err := e.load.Final(); err != nil {
		e.problem("%v", err)
	}
}

// behind says what is not as it should be yet.
func (e *Episode) behind() string {
	running := e.cluster.running()
	if len(running) != e.members {
		return fmt.Sprintf("only %v run", running)
	}
	var first uint64
	for i, name := range running {
		index, _, err := e.cluster.compare(name)
		switch {
		case err != nil:
			return fmt.Sprintf("%s: %v", name, err)
		case i == 0:
			first = index
		case index != first:
			return fmt.Sprintf("%s is at %d, %s at %d", running[0], first, name, index)
		}
	}
	e.applied = first
	if n := e.log.Missing(); n > 0 {
		return fmt.Sprintf("%d acknowledged messages have not been seen", n)
	}
	return ""
}

// within polls until ok, and reports whether that came in time.
func within(d time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(d); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}

func limited(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func (e *Episode) problem(format string, args ...any) {
	e.problems = append(e.problems, fmt.Sprintf(format, args...))
}

// trace keeps what members and lab have said.
type trace struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *trace) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}
