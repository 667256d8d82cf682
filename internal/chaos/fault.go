package chaos

import (
	"fmt"
	"slices"
	"time"
)

// Fault is a way in which a node fails.
type Fault string

// The faults.
const (
	Kill   Fault = "kill"   // its process ends at once
	Freeze Fault = "freeze" // its process stands still, with its connections open, and then goes on
	Term   Fault = "term"   // it is asked to stop: it hands leadership over, and ends
	Cut    Fault = "cut"    // it loses its network
)

// Faults lists all of them.
func Faults() []Fault { return []Fault{Kill, Freeze, Term, Cut} }

// fault returns which fault failure i, counted from 0, is, and whether it is for
// the leader. The faults take turns; three times out of four each one hits the
// leader.
func (cfg *Config) fault(i int) (f Fault, leader bool) {
	n := len(cfg.Faults)
	return cfg.Faults[i%n], cfg.OnlyLeaders || i/n%4 != 3
}

// down is how long a node stays as it is after a fault.
func (cfg *Config) down(f Fault) time.Duration {
	if f == Freeze {
		return cfg.Frozen
	}
	return cfg.Down
}

func (cfg *Config) checkFaults() error {
	for _, f := range cfg.Faults {
		if !slices.Contains(Faults(), f) {
			return fmt.Errorf("chaos: no fault %q", f)
		}
	}
	return nil
}
