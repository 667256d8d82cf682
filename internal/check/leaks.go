package check

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Holdings is what a process holds at one moment.
type Holdings struct {
	Files      int // open descriptors; -1: not known
	Goroutines int // -1: not known
}

// HoldingsIn reads what a process says about itself at its /metrics, in
// Prometheus' text format.
func HoldingsIn(metrics io.Reader) (Holdings, error) {
	h := Holdings{-1, -1}
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		into := &h.Files
		switch name {
		case "process_open_fds":
		case "go_goroutines":
			into = &h.Goroutines
		default:
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return h, fmt.Errorf("%s: %w", name, err)
		}
		*into = int(n)
	}
	if err := lines.Err(); err != nil {
		return h, err
	}
	if h == (Holdings{-1, -1}) {
		return h, fmt.Errorf("neither process_open_fds nor go_goroutines is among the metrics")
	}
	return h, nil
}

// HoldingsOf looks at a process from outside, where there is a /proc.
func HoldingsOf(pid int) (Holdings, error) {
	files, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	return Holdings{len(files), -1}, err
}

// Leaks compares what processes hold at different moments of rest: after the same
// clients have come and gone, and everything is answered, it is about the same. It
// is safe for concurrent use.
type Leaks struct {
	mu   sync.Mutex
	seen map[string][]Holdings
}

// At records what a process holds. A process that is started again is another one.
func (l *Leaks) At(process string, h Holdings) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = make(map[string][]Holdings)
	}
	l.seen[process] = append(l.seen[process], h)
}

// Problems says, in words, which processes hold more at the end than at the
// beginning, by more than room: connections that are idle come and go.
func (l *Leaks) Problems(room int) (problems []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for process, all := range l.seen {
		first, last := all[0], all[len(all)-1]
		for _, x := range []struct {
			what        string
			first, last int
		}{{"descriptors", first.Files, last.Files}, {"goroutines", first.Goroutines, last.Goroutines}} {
			if x.first >= 0 && x.last > x.first+room {
				problems = append(problems, fmt.Sprintf("%s leaks %s: %d at the beginning, %d at the end", process, x.what, x.first, x.last))
			}
		}
	}
	slices.Sort(problems)
	return problems
}
