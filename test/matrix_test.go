package test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley/internal/check"
)

// The matrix is a table of what can happen to a cluster of real processes. Each
// row is an episode: a cluster under load, something that happens to it, and the
// question whether it has kept its promises. make matrix runs all rows, go test
// a few quick ones.
var (
	matrixRows = flag.String("row", "", "rows of the matrix to run, with commas; all: every one; empty: the quick sample")
	matrixRuns = flag.Int("runs", 1, "how often each row runs")
	matrixSeed = flag.Uint64("seed", 0, "seed of a row's first run, the others follow; 0: a random one")
	matrixKeep = flag.String("keep", "", "directory for what failed; empty: the system's for temporary files")
	matrixLong = flag.Bool("long", false, "rows that have a long form run in that")
	matrixDocs = flag.Bool("write-docs", false, "write the matrix into docs/reliability.md")
)

// A row is one kind of misfortune.
type row struct {
	name    string
	happens string // what happens, in words
	passes  string // what must be true beyond what must be always, see the documentation
	needs   []need
	sample  bool // is quick, and part of go test
	run     func(*episode)
}

// matrix are all rows.
func matrix() []row {
	return slices.Concat(processRows(), powerRows(), diskRows(), damageRows(), networkRows(), proxyRows(), resourceRows(), clockRows(), composeRows())
}

// times is how often something happens in a row: once in the quick sample.
func times(n int) int {
	if *matrixRows == "" {
		return 1
	}
	return n
}

// A need is something that not every machine has.
type need struct {
	what    string
	missing func() string // why it is missing here, "" if it is not
}

var (
	needRoot = need{"root", func() string {
		if os.Geteuid() != 0 {
			return "this is not root"
		}
		return ""
	}}
	needFUSE = need{"FUSE", func() string {
		f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			return err.Error()
		}
		f.Close()
		return ""
	}}
)

// needProgram is a program that must be installed.
func needProgram(name string) need {
	return need{name, func() string {
		if _, err := exec.LookPath(name); err != nil {
			return err.Error()
		}
		return ""
	}}
}

func TestMatrix(t *testing.T) {
	rows, say := chosenRows(t), t.Logf
	if *matrixRows != "" {
		say = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	}
	sum := newTally()
	for _, r := range rows {
		seed := *matrixSeed
		if seed == 0 {
			seed = 1 + rand.Uint64N(1<<40)
		}
		for i := range uint64(*matrixRuns) {
			t.Run(fmt.Sprintf("%s/seed=%d", r.name, seed+i), func(t *testing.T) {
				if why := r.missing(); why != "" {
					sum.skip(r.name, why)
					say("%-24s NOT RUN: %s", r.name, why)
					t.Skip(why)
				}
				began := time.Now()
				o := runEpisode(t, r, seed+i)
				sum.add(r.name, o)
				say("%-24s seed %-14d %4v  %v", r.name, seed+i, time.Since(began).Round(time.Second), o)
			})
		}
	}
	say("%v", sum)
}

// missing is why a row cannot run here, "" if it can.
func (r row) missing() string {
	var all []string
	for _, n := range r.needs {
		if why := n.missing(); why != "" {
			all = append(all, fmt.Sprintf("needs %s: %s", n.what, why))
		}
	}
	return strings.Join(all, "; ")
}

func chosenRows(t *testing.T) []row {
	rows := matrix()
	switch *matrixRows {
	case "":
		return slices.DeleteFunc(rows, func(r row) bool { return !r.sample })
	case "all":
		return rows
	}
	var chosen []row
	for name := range strings.SplitSeq(*matrixRows, ",") {
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == name })
		if i < 0 {
			t.Fatalf("there is no row %q", name)
		}
		chosen = append(chosen, rows[i])
	}
	return chosen
}

// runEpisode runs a row once. What is of use after a failure is kept.
func runEpisode(t *testing.T, r row, seed uint64) *outcome {
	dir, err := os.MkdirTemp(*matrixKeep, fmt.Sprintf("parley-matrix-%s-seed-%d-", r.name, seed))
	if err != nil {
		t.Fatal(err)
	}
	e := newEpisode(t, seed, dir)
	t.Cleanup(func() { // comes last, when all processes have ended
		if !t.Failed() {
			os.RemoveAll(dir)
			return
		}
		e.keep(r)
		t.Logf("everything is in %s\nrepeat it with: make matrix ROW=%s SEED=%d", dir, r.name, seed)
	})
	t.Cleanup(e.close) // also when the row has given up
	r.run(e)
	e.judge()
	return &e.outcome
}

// outcome is what is to be said about an episode that has come to its end.
type outcome struct {
	faults     map[string]int // that happened, by kind
	delivery   check.Verdict
	operations int // judged for linearizability
	parts      int // into which their history was cut
	terms      int // that had a leader
	compared   int // places in the log at which states were compared
	extra      []string
}

func (o *outcome) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d faults, %d acknowledged", sumOf(o.faults), o.delivery.Acknowledged)
	if o.operations > 0 {
		fmt.Fprintf(&b, ", %d operations", o.operations)
	}
	for _, x := range o.extra {
		fmt.Fprintf(&b, ", %s", x)
	}
	return b.String()
}

// tally sums up.
type tally struct {
	mu       sync.Mutex
	rows     map[string]int // episodes that passed
	skipped  map[string]string
	episodes int
	outcome
}

func newTally() *tally {
	return &tally{rows: make(map[string]int), skipped: make(map[string]string), outcome: outcome{faults: make(map[string]int)}}
}

func (s *tally) skip(row, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped[row] = why
}

// add is called for episodes that came to their end, whether they passed or not.
func (s *tally) add(row string, o *outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[row]++
	s.episodes++
	for k, n := range o.faults {
		s.faults[k] += n
	}
	s.delivery.Sent += o.delivery.Sent
	s.delivery.Acknowledged += o.delivery.Acknowledged
	s.delivery.Delivered += o.delivery.Delivered
	s.operations += o.operations
	s.parts += o.parts
	s.terms += o.terms
	s.compared += o.compared
}

func (s *tally) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d rows, %d episodes to their end, %d faults, %d terms; mail: %d sent, %d acknowledged and checked, %d delivered\n",
		len(s.rows), s.episodes, sumOf(s.faults), s.terms, s.delivery.Sent, s.delivery.Acknowledged, s.delivery.Delivered)
	fmt.Fprintf(&b, "%d operations judged for linearizability in %d parts; states compared at %d places in the log\nfaults:", s.operations, s.parts, s.compared)
	for _, k := range slices.Sorted(maps.Keys(s.faults)) {
		fmt.Fprintf(&b, " %s %d,", k, s.faults[k])
	}
	text := strings.TrimSuffix(b.String(), ",")
	for _, row := range slices.Sorted(maps.Keys(s.skipped)) {
		text += fmt.Sprintf("\nNOT RUN: %s: %s", row, s.skipped[row])
	}
	return text
}

func sumOf(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

// docs/reliability.md has the matrix as it is here.
func TestMatrixIsDocumented(t *testing.T) {
	const begin, end = "<!-- matrix: written by go test ./test -run TestMatrixIsDocumented -write-docs -->\n", "<!-- end of matrix -->"
	path := filepath.Join("..", "docs", "reliability.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the matrix", path)
	}
	var want strings.Builder
	want.WriteString("| row | what happens | passes if | needs |\n|---|---|---|---|\n")
	for _, r := range matrix() {
		var needs []string
		for _, n := range r.needs {
			needs = append(needs, n.what)
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s | %s |\n", r.name, r.happens, r.passes, strings.Join(needs, ", "))
	}
	if table == want.String() {
		return
	}
	if !*matrixDocs {
		t.Fatalf("the matrix in %s is not that of the rows; write it with: go test ./test -run TestMatrixIsDocumented -write-docs", path)
	}
	if err := os.WriteFile(path, []byte(before+begin+want.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
