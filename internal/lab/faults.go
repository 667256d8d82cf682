package lab

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Fault is something that happens to a cluster, and is made good after a while.
type Fault struct {
	Number int
	At     time.Duration // since the load began
	For    time.Duration
	Kind   string
	Seed   uint64 // of what is decided when it happens
}

func (f Fault) String() string {
	return fmt.Sprintf("%d: %v after %v, for %v", f.Number, f.Kind, f.At.Round(time.Millisecond), f.For.Round(time.Millisecond))
}

// kinds are the faults, with how often each is chosen.
var kinds = []struct {
	kind string
	odds int
}{
	{"crash", 20},        // kill -9 of a member
	{"crash leader", 12}, // of the one that leads
	{"crash all", 4},     // of all at about the same time
	{"power loss", 12},   // of a member's machine
	{"power loss all", 6},
	{"disk error", 6}, // flushes fail
	{"stop", 6},       // a member ends in good order and comes back
	{"transfer", 6},   // leadership is handed over
	{"isolate", 10},   // all links of a member, or of the leader, are cut
	{"split", 8},      // into two parts
	{"one way", 10},   // links are cut in one direction
	{"bridge", 4},     // only one member reaches all others
	{"cut off clients", 4},
	{"slow", 8},
	{"loss", 8},
	{"repeat", 6},      // Raft's messages arrive twice
	{"reset", 6},       // connections break
	{"false alarm", 4}, // a living leader is said to be dead
	{"checkpoint", 6},
	{"wipe", 3},   // a member loses its data and joins again
	{"damage", 4}, // a bit of a dead member's data flips
}

// schedule decides what happens within a time.
func schedule(rng *rand.Rand, within time.Duration) []Fault {
	total := 0
	for _, k := range kinds {
		total += k.odds
	}
	var faults []Fault
	for at := time.Duration(0); ; {
		at += time.Duration(rng.Int64N(int64(1500 * time.Millisecond)))
		if at > within {
			return faults
		}
		f := Fault{Number: len(faults) + 1, At: at, Seed: rng.Uint64()}
		f.For = 50*time.Millisecond + time.Duration(rng.Int64N(int64(2*time.Second)))
		if rng.IntN(5) == 0 {
			f.For = time.Duration(rng.Int64N(int64(6 * time.Second)))
		}
		p := rng.IntN(total)
		for _, k := range kinds {
			if p -= k.odds; p < 0 {
				f.Kind = k.kind
				break
			}
		}
		faults = append(faults, f)
	}
}

// storm carries out faults.
type storm struct {
	c       *Cluster
	clients []string
	busy    map[string]bool // hosts whose process is being ended or started
	losing  bool            // a member has lost its data and is not back yet
	note    func(format string, args ...any)
	done    map[string]int
}

// happen carries out one fault, and returns how it is made good; nil if it
// cannot happen now.
func (s *storm) happen(f Fault) (heal func()) {
	rng := rand.New(rand.NewPCG(f.Seed, 1))
	names := slices.Clone(s.c.names)
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	if l := s.c.leader(); l != "" && rng.IntN(3) == 0 {
		slices.SortStableFunc(names, func(a, b string) int {
			switch {
			case a == l:
				return -1
			case b == l:
				return 1
			}
			return 0
		})
	}
	switch f.Kind {
	case "crash":
		return s.crash(rng, names[0])
	case "crash leader":
		return s.crash(rng, s.c.leader())
	case "power loss":
		return s.powerLoss(rng, names[0])
	case "power loss all":
		return s.powerLoss(rng, names...)
	case "disk error":
		return s.diskError(rng, names[0])
	case "crash all":
		return s.crash(rng, names...)
	case "stop":
		return s.stop(names[0])
	case "transfer":
		return s.transfer(s.c.leader())
	case "wipe":
		return s.wipe(names[0])
	case "damage":
		return s.damage(rng, names[0])
	case "false alarm":
		s.c.tellCrash(s.c.leader())
		return func() {}
	case "checkpoint":
		s.c.compare(names[0]) // an error is that of a node that fails, which is found elsewhere
		return func() {}
	}
	return s.network(f, rng, names)
}

// network carries out what happens on links.
func (s *storm) network(f Fault, rng *rand.Rand, names []string) (heal func()) {
	n := s.c.net
	var undo []func()
	each := func(from, to []string, do func(from, to string) func()) {
		for _, a := range from {
			for _, b := range to {
				if a != b {
					undo = append(undo, do(a, b))
				}
			}
		}
	}
	both := func(a, b []string, do func(from, to string) func()) { each(a, b, do); each(b, a, do) }
	all := append(slices.Clone(s.clients), names...)
	k := 1 + rng.IntN(len(names)-1)
	switch f.Kind {
	case "isolate":
		both(names[:1], names[1:], n.Cut)
	case "split":
		both(names[:k], names[k:], n.Cut)
	case "one way":
		if rng.IntN(2) == 0 {
			each(names[:1], names[1:1+rng.IntN(len(names)-1)], n.Cut)
		} else {
			each(names[1:1+rng.IntN(len(names)-1)], names[:1], n.Cut)
		}
	case "bridge":
		half := (len(names) + 1) / 2
		both(names[1:half], names[half:], n.Cut)
	case "cut off clients":
		both(s.clients, names[:k], n.Cut)
	case "slow":
		d := time.Duration(rng.Int64N(int64(400 * time.Millisecond)))
		both(names[:1], all, func(a, b string) func() { return n.Slow(a, b, d+1) })
	case "loss":
		share := 0.1 + 0.2*rng.Float64()
		both(names[:k], all, func(a, b string) func() { return n.Lose(a, b, share) })
	case "repeat":
		share := 0.1 + 0.4*rng.Float64()
		both(names[:k], names, func(a, b string) func() { return n.Repeat(a, b, share) })
	case "reset":
		both(names[:1], all, func(a, b string) func() { n.Reset(a, b); return func() {} })
	default:
		panic("no such fault: " + f.Kind)
	}
	return func() {
		for _, u := range undo {
			u()
		}
	}
}

// claim takes hosts whose process is to be ended, all or none.
func (s *storm) claim(names ...string) bool {
	for _, name := range names {
		if name == "" || s.busy[name] || s.c.node(name) == nil {
			return false
		}
	}
	for _, name := range names {
		s.busy[name] = true
	}
	return true
}

func (s *storm) crash(rng *rand.Rand, names ...string) (heal func()) {
	if s.losing && len(names) > 1 || !s.claim(names...) {
		return nil
	}
	for _, name := range names {
		s.c.Crash(name, rng.IntN(10) > 0)
	}
	return func() {
		for _, name := range names {
			s.start(name)
		}
	}
}

func (s *storm) powerLoss(rng *rand.Rand, names ...string) (heal func()) {
	if s.losing && len(names) > 1 || !s.claim(names...) {
		return nil
	}
	if !s.c.PowerLoss(rng, rng.IntN(2) == 0, names...) {
		s.release(names...)
		return nil
	}
	return func() {
		for _, name := range names {
			s.start(name)
		}
	}
}

func (s *storm) diskError(rng *rand.Rand, name string) (heal func()) {
	if !s.claim(name) {
		return nil
	}
	ended := s.c.DiskError(rng, rng.IntN(2) == 0, name)
	if ended == nil {
		s.release(name)
		return nil
	}
	return func() {
		if ended() {
			s.done["disk error noticed"]++
			s.start(name)
		} else {
			s.release(name)
		}
	}
}

func (s *storm) release(names ...string) {
	for _, name := range names {
		s.busy[name] = false
	}
}

func (s *storm) start(name string) {
	s.busy[name] = false
	if err := s.c.Start(name); err != nil {
		s.c.problem("%s does not start: %v", name, err)
	}
}

func (s *storm) stop(name string) (heal func()) {
	if !s.claim(name) {
		return nil
	}
	ended := make(chan struct{})
	go func() { s.c.Stop(name); close(ended) }()
	return func() {
		<-ended
		s.start(name)
	}
}

func (s *storm) transfer(name string) (heal func()) {
	n := s.c.node(name)
	if n == nil {
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := limited(5 * time.Second)
		defer cancel()
		if err := n.Transfer(ctx); err != nil {
			s.note("transfer from %s: %v", name, err)
		}
	}()
	return func() { <-ended }
}

// wipe kills a member and takes its data away; it joins as a new one. That is
// done to one member at a time, while all others have theirs.
func (s *storm) wipe(name string) (heal func()) {
	if s.losing || !s.claim(name) {
		return nil
	}
	s.losing = true
	s.c.Crash(name, true)
	return func() { s.rejoin(name) }
}

// rejoin starts a member without data.
func (s *storm) rejoin(name string) {
	if err := s.c.Wipe(name); err != nil {
		s.c.problem("%v", err)
	}
	s.start(name)
}

// damage kills a member and changes a bit of what it has stored. It must notice,
// or be none the worse.
func (s *storm) damage(rng *rand.Rand, name string) (heal func()) {
	if s.losing || !s.claim(name) {
		return nil
	}
	s.losing = true
	s.c.Crash(name, true)
	where, err := flip(rng, s.c.dirOf(name))
	if err != nil {
		s.c.problem("%v", err)
	}
	return func() {
		s.busy[name] = false
		err := s.c.Start(name)
		s.note("%s starts after a flipped bit in %s: %v", name, where, err)
		if err != nil {
			s.done["damage noticed"]++
			s.rejoin(name)
			return
		}
		s.done["damage without effect"]++
	}
}

// flip changes one bit in one of the files of a directory, where there is
// anything.
func flip(rng *rand.Rand, dir string) (where string, err error) {
	m, err := read(dir)
	if err != nil {
		return "", err
	}
	var names []string
	for name, f := range m {
		if len(f.blocks) > 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", fmt.Errorf("%s is empty", dir)
	}
	slices.Sort(names)
	name := names[rng.IntN(len(names))]
	var used []int64
	for at := range m[name].blocks {
		used = append(used, at)
	}
	slices.Sort(used)
	at := used[rng.IntN(len(used))]
	b := m[name].blocks[at]
	i := rng.IntN(len(b))
	b[i] ^= 1 << rng.IntN(8)
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	_, err = file.WriteAt(b[i:i+1], at+int64(i))
	return fmt.Sprintf("%s at %d", name, at+int64(i)), err
}
