package lab

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seeds = flag.Int("seeds", 0, "episodes to simulate; 0: a few, which is what go test does")
	seed  = flag.Uint64("seed", 0, "seed of the first episode, the others follow; 0: a random one")
	only  = flag.String("only", "", "numbers of the faults that happen, with commas; empty: all")
	where = flag.String("where", "", "directory for the members' data; empty: in memory, where there is such a file system")
	stop  = flag.Bool("first", false, "begin no other episode after the first that fails")
	keep  = flag.String("keep", "", "directory for what failed; empty: the system's for temporary files")
	tries = flag.Int("shrink", 20, "reruns to find fewer faults with which a failed episode fails, too")
	lasts = flag.Duration("for", 0, "begin no other episode after this time; 0: do")
)

// regressions are seeds that have found something once: planted bugs, and the last
// ones a leader that was never forgotten, a checkpoint on a disk that fails, which
// the laboratory took for a process that does not end, and a leader whose messages to
// all others were lost in the last cut.
var regressions = []uint64{1, 4, 5, 19, 29, 298105081787, 275561955533, 762454297553}

func TestSim(t *testing.T) {
	first, list := *seed, []uint64{}
	if first == 0 {
		first = 1 + rand.Uint64N(1<<40)
	}
	n := *seeds
	if n == 0 && *seed != 0 {
		n = 1
	}
	if n == 0 {
		n, list = 3, regressions
	}
	for i := range uint64(n) {
		list = append(list, first+i)
	}
	say := t.Logf
	if *seeds > 0 {
		say = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	}
	say("seeds %d to %d", first, first+uint64(n)-1)
	if _, err := watchFlushes(); err != nil {
		say("no power is lost and no disk fails: %v", err)
	}
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(400)) // episodes are short: a sixth less work
	}
	var mu sync.Mutex
	var all Outcome
	began := time.Now()
	t.Run("episodes", func(t *testing.T) {
		for _, s := range list {
			t.Run(fmt.Sprint("seed=", s), func(t *testing.T) {
				t.Parallel()
				mu.Lock()
				enough := *stop && len(all.Violations) > 0
				mu.Unlock()
				if enough {
					t.Skip("another one has failed")
				}
				if *lasts > 0 && time.Since(began) > *lasts {
					t.Skip("the time is over")
				}
				o := simulate(t, s)
				mu.Lock()
				defer mu.Unlock()
				all.Add(o)
				if all.Episodes%100 == 0 {
					say("%d episodes, %d violations", all.Episodes, len(all.Violations))
				}
			})
		}
	})
	say("%v", all)
}

// simulate runs one episode, and when it fails, smaller ones.
func simulate(t *testing.T, s uint64) Outcome {
	e, o := run(t, s, numbers(t, *only))
	defer os.RemoveAll(e.Dir)
	if len(o.Violations) == 0 {
		return o
	}
	report(t, e, o)
	all := e.Faults()
	var list []int
	for _, f := range all {
		list = append(list, f.Number)
	}
	var small *Episode
	var smaller Outcome
	Shrink(list, *tries, func(only []int) bool {
		e, o := run(t, s, only)
		if len(o.Violations) == 0 {
			os.RemoveAll(e.Dir)
			return false
		}
		if small != nil {
			os.RemoveAll(small.Dir)
		}
		small, smaller = e, o
		return true
	})
	if small != nil {
		defer os.RemoveAll(small.Dir)
		t.Logf("it fails with %d of its %d faults, too:", len(small.Faults()), len(all))
		report(t, small, smaller)
	}
	return o
}

// run runs one episode. Its directory is left.
func run(t *testing.T, s uint64, only []int) (*Episode, Outcome) {
	dir, err := os.MkdirTemp(place(), "parley-sim-")
	if err != nil {
		t.Fatal(err)
	}
	e := NewEpisode(s, dir)
	e.Only = only
	synctest.Test(t, func(*testing.T) { e.Run() })
	return e, e.Judge()
}

// report keeps everything about a failed episode in one directory and says how to
// repeat it.
func report(t *testing.T, e *Episode, o Outcome) {
	kept, err := os.MkdirTemp(*keep, fmt.Sprintf("parley-sim-seed-%d-", e.Seed))
	if err != nil {
		t.Fatal(err)
	}
	command := fmt.Sprintf("go test ./internal/lab -run '^TestSim$' -count=1 -v -seed %d", e.Seed)
	if e.Only != nil {
		command += " -only " + listed(e.Only)
	}
	if err := e.Keep(o, kept, command); err != nil {
		t.Error(err)
	}
	if err := os.CopyFS(filepath.Join(kept, "data"), os.DirFS(e.Dir)); err != nil {
		t.Error(err)
	}
	shown := o.Violations
	if len(shown) > 5 {
		shown = append(shown[:5:5], fmt.Sprintf("and %d more", len(o.Violations)-5))
	}
	t.Errorf("seed %d:\n%s\neverything is in %s\nrepeat it with: %s", e.Seed, strings.Join(shown, "\n"), kept, command)
}

// place is where the members' data are.
func place() string {
	if *where != "" {
		return *where
	}
	const memory = "/dev/shm"
	if f, err := os.CreateTemp(memory, "parley-sim-"); err == nil {
		f.Close()
		os.Remove(f.Name())
		return memory
	}
	return ""
}

// listed is what the flag -only wants; 0 is the number of no fault.
func listed(ns []int) string {
	if len(ns) == 0 {
		return "0"
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(ns), " ", ","), "[]")
}

func numbers(t *testing.T, list string) (ns []int) {
	if list == "" {
		return nil
	}
	for f := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ns = append(ns, n)
	}
	return ns
}
