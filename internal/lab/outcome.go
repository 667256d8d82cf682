package lab

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley/internal/check"
	"github.com/parley-chat/parley/node"
)

// Outcome is what is to be said about an episode.
type Outcome struct {
	Episodes   int
	Virtual    time.Duration  // of the members' time
	Faults     map[string]int // that happened, by kind
	Messages   map[string]int // between hosts, by fate
	Images     map[string]int // of killed members' data, by how they were made
	Operations int            // in histories
	Parts      int            // into which the histories were cut
	Largest    int            // operations in the largest part
	Commands   int            // and questions, answered or given up, mail included
	GivenUp    int
	Delivery   check.Verdict
	Compared   check.Compared
	Violations []string

	findings []check.Finding
}

// decides is how long a part of a history may take to be judged.
const decides = 20 * time.Second

// Judge asks the checkers, after Run.
func (e *Episode) Judge() Outcome {
	o := Outcome{
		Episodes: 1, Virtual: e.took, Faults: e.done, Operations: e.history.Len(),
		Delivery: e.log.Verdict(), Violations: slices.Clone(e.problems),
	}
	if e.net != nil {
		o.Messages, o.Images = e.net.Stats(), e.cluster.copies.tries
		o.Commands, o.GivenUp = int(e.load.answered.Load()), int(e.load.unknown.Load())
	}
	o.Violations = append(o.Violations, e.compareLogs()...)
	o.Compared = e.replicas.Compared()
	o.Violations = append(o.Violations, e.replicas.Problems()...)
	if !o.Delivery.OK() {
		o.Violations = append(o.Violations, "delivery: "+o.Delivery.String())
		o.Violations = append(o.Violations, e.log.Problems()...)
	}
	if o.Delivery.Acknowledged == 0 {
		o.Violations = append(o.Violations, "nothing was acknowledged: the episode proves nothing")
	}
	j := e.history.Check(decides)
	o.Parts, o.Largest, o.findings = j.Parts, j.Largest, j.Findings
	for _, f := range j.Findings {
		o.Violations = append(o.Violations, f.String())
	}
	return o
}

// compareLogs reads the logs that the members have left.
func (e *Episode) compareLogs() (problems []string) {
	if e.cluster == nil {
		return nil
	}
	for _, name := range e.cluster.names {
		m := e.cluster.members[name]
		if m == nil || m.node != nil {
			continue
		}
		err := node.ReadLog(m.dir, func(l node.LogEntry) {
			e.replicas.Entry(name, l.Index, l.Term, l.Sum, l.Index <= e.applied)
		})
		if err != nil {
			problems = append(problems, fmt.Sprintf("reading the log of %s: %v", name, err))
		}
	}
	return problems
}

// Add sums up.
func (o *Outcome) Add(p Outcome) {
	o.Episodes += p.Episodes
	o.Virtual += p.Virtual
	o.Faults, o.Messages, o.Images = plus(o.Faults, p.Faults), plus(o.Messages, p.Messages), plus(o.Images, p.Images)
	o.Operations += p.Operations
	o.Parts += p.Parts
	o.Largest = max(o.Largest, p.Largest)
	o.Commands += p.Commands
	o.GivenUp += p.GivenUp
	o.Compared.Terms += p.Compared.Terms
	o.Compared.States += p.Compared.States
	o.Compared.Entries += p.Compared.Entries
	o.Delivery.Sent += p.Delivery.Sent
	o.Delivery.Acknowledged += p.Delivery.Acknowledged
	o.Delivery.Delivered += p.Delivery.Delivered
	o.Delivery.Lost += p.Delivery.Lost
	o.Delivery.Duplicated += p.Delivery.Duplicated
	o.Delivery.Reordered += p.Delivery.Reordered
	o.Delivery.Phantom += p.Delivery.Phantom
	o.Violations = append(o.Violations, p.Violations...)
}

func plus(a, b map[string]int) map[string]int {
	sum := maps.Clone(a)
	if sum == nil {
		sum = make(map[string]int)
	}
	for k, v := range b {
		sum[k] += v
	}
	return sum
}

func (o Outcome) String() string {
	var b strings.Builder
	faults := 0
	for _, n := range o.Faults {
		faults += n
	}
	fmt.Fprintf(&b, "%d episodes, %v of virtual time, %d terms, %d faults, %d violations\n",
		o.Episodes, o.Virtual.Round(time.Second), o.Compared.Terms, faults, len(o.Violations))
	fmt.Fprintf(&b, "operations: %d commands and questions, %d of them given up; %d judged for linearizability in %d parts, the largest of %d\n",
		o.Commands, o.GivenUp, o.Operations, o.Parts, o.Largest)
	fmt.Fprintf(&b, "mail: %v\n", o.Delivery)
	fmt.Fprintf(&b, "compared: states at %d places in the log, %d log entries\n", o.Compared.States, o.Compared.Entries)
	fmt.Fprintf(&b, "faults: %s\n", counts(o.Faults))
	fmt.Fprintf(&b, "messages between hosts: %s\n", counts(o.Messages))
	fmt.Fprintf(&b, "copies of members' data: %s\n", counts(o.Images))
	return b.String()
}

func counts(m map[string]int) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(all, ", ")
}

// Keep writes what there is to know about an episode into a directory: what was
// wrong, what happened, the histories, and next to them the members' data.
func (e *Episode) Keep(o Outcome, dir, command string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d members, log in %s, %v\nrepeat it with: %s\n\n", e.Seed, e.members, e.store, e.length, command)
	for _, f := range e.Faults() {
		fmt.Fprintln(&b, f)
	}
	fmt.Fprintf(&b, "\n%v\n%s\n", o, strings.Join(o.Violations, "\n"))
	errs := []error{
		os.WriteFile(filepath.Join(dir, "violations.txt"), []byte(b.String()), 0o600),
		os.WriteFile(filepath.Join(dir, "trace.txt"), e.trace.b.Bytes(), 0o600),
		os.WriteFile(filepath.Join(dir, "history.txt"), []byte(strings.Join(e.history.Lines(), "\n")+"\n"), 0o600),
	}
	for i, f := range o.findings {
		page, err := os.Create(filepath.Join(dir, fmt.Sprintf("history-%d.html", i+1)))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, f.Draw(page), page.Close())
	}
	return errors.Join(errs...)
}
