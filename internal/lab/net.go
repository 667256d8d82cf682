package lab

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Net is a network in memory. Hosts are named; a host has at most one process
// that listens, its Port. Every message takes its time, and each direction of
// each link can be made slow, lossy, or be cut.
//
// It does what TCP does, and no more: the messages of one connection stay in order
// and arrive once; those of different connections overtake each other. A message
// that was sent into a cut may still arrive when the cut is healed, long after its
// sender has given up on it. Raft's messages have a connection each, and may arrive
// a second time on another one.
type Net struct {
	mu    sync.Mutex
	rng   *rand.Rand
	ports map[string]*Port
	links map[[2]string]*link
	stats map[string]int // messages by fate
}

// link is one direction between two hosts.
type link struct {
	slow  time.Duration // added to each message, at most
	loss  float64       // share of the messages that have to be sent again
	twice float64       // share of Raft's messages that arrive another time
	held  chan struct{} // not nil: nothing passes until it is closed
	cuts  int           // reasons why held is not nil
	broke chan struct{} // closed when all connections are reset
}

// Times of a network in good order, and of TCP.
const (
	fastest    = 100 * time.Microsecond
	ordinary   = 2 * time.Millisecond
	resend     = 200 * time.Millisecond // until a lost segment is sent again
	idleBreaks = 3 * time.Second        // after which a connection that says nothing is given up
	rpcBreaks  = 10 * time.Second       // after which a Raft message is
)

// NewNet returns a network without hosts.
func NewNet(rng *rand.Rand) *Net {
	return &Net{rng: rng, ports: make(map[string]*Port), links: make(map[[2]string]*link), stats: make(map[string]int)}
}

// link returns one direction. mu is held.
func (n *Net) link(from, to string) *link {
	key := [2]string{from, to}
	l := n.links[key]
	if l == nil {
		l = &link{broke: make(chan struct{})}
		n.links[key] = l
	}
	return l
}

// port is the process that listens on a host, nil if there is none.
func (n *Net) port(host string) *Port {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ports[host]
}

// Cut lets nothing pass in one direction until the returned function is called.
func (n *Net) Cut(from, to string) (heal func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	if l.cuts++; l.cuts == 1 {
		l.held = make(chan struct{})
	}
	return sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.cuts--; l.cuts == 0 {
			close(l.held)
			l.held = nil
		}
	})
}

// Slow makes one direction slower by up to d until the returned function is called.
func (n *Net) Slow(from, to string, d time.Duration) (heal func()) {
	return n.change(from, to, func(l *link) { l.slow = d }, func(l *link) { l.slow = 0 })
}

// Lose makes a share of the messages late, as if TCP had to send them again.
func (n *Net) Lose(from, to string, share float64) (heal func()) {
	return n.change(from, to, func(l *link) { l.loss = share }, func(l *link) { l.loss = 0 })
}

// Repeat makes a share of Raft's messages arrive another time.
func (n *Net) Repeat(from, to string, share float64) (heal func()) {
	return n.change(from, to, func(l *link) { l.twice = share }, func(l *link) { l.twice = 0 })
}

// repeats decides whether one of Raft's messages arrives another time, and how much later.
func (n *Net) repeats(from, to string) (after time.Duration, again bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.link(from, to); l.twice == 0 || n.rng.Float64() >= l.twice {
		return 0, false
	}
	n.stats["repeated"]++
	return time.Duration(n.rng.Int64N(int64(500 * time.Millisecond))), true
}

func (n *Net) change(from, to string, do, undo func(*link)) (heal func()) {
	with := func(f func(*link)) {
		n.mu.Lock()
		defer n.mu.Unlock()
		f(n.link(from, to))
	}
	with(do)
	return func() { with(undo) }
}

// Reset breaks all connections from one host to another.
func (n *Net) Reset(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	close(l.broke)
	l.broke = make(chan struct{})
}

// fate is what happens to a message.
type fate string

const (
	arrives fate = "arrived"
	late    fate = "arrived after a cut" // or after the limit
	lost    fate = "lost in a cut"
)

// carry takes the time of one message and says what became of it. A message that
// meets a cut waits for it to be healed, and then has an even chance.
func (n *Net) carry(from, to string) fate {
	n.mu.Lock()
	l := n.link(from, to)
	d := fastest + time.Duration(n.rng.Int64N(int64(ordinary-fastest)))
	if l.slow > 0 {
		d += time.Duration(n.rng.Int64N(int64(l.slow)))
	}
	for again := resend; l.loss > 0 && n.rng.Float64() < l.loss && again < 8*resend; again *= 2 {
		d += again
	}
	held := l.held
	survives := n.rng.IntN(2) == 0
	n.mu.Unlock()
	time.Sleep(d)
	f := arrives
	if held != nil {
		<-held
		if f = lost; survives {
			f = late
			time.Sleep(d)
		}
	}
	n.mu.Lock()
	n.stats[string(f)]++
	n.mu.Unlock()
	return f
}

// count counts something that is not a message's fate.
func (n *Net) count(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stats[what]++
}

// broken is closed when the connections between two hosts are reset.
func (n *Net) broken(from, to string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.link(from, to).broke
}

// Stats counts messages by their fate.
func (n *Net) Stats() map[string]int {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make(map[string]int)
	for k, v := range n.stats {
		all[k] = v
	}
	return all
}

// Hosts are the names of all processes that listen, but some.
func (n *Net) Hosts(but []string) (names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.ports {
		if !slices.Contains(but, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// KillAll ends the connections of all processes.
func (n *Net) KillAll() {
	n.mu.Lock()
	var all []*Port
	for _, p := range n.ports {
		all = append(all, p)
	}
	n.mu.Unlock()
	for _, p := range all {
		p.Kill()
	}
}
