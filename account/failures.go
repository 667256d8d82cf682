package account

import (
	"context"
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

// failures makes logins slow of which many fail: from one address, and for one
// account. A login waits before it is looked at, not longer than maxDelay: nobody
// is locked out, not even from an account at which somebody else is guessing.
//
// Its memory is bounded: it keeps a number for each of so many hashes of
// addresses and accounts. Two that share a hash share their failures, which costs
// one of them maxDelay at most.
type failures struct {
	maxDelay time.Duration
	forget   time.Duration
	most     int // that wait from one address; a quarter of it from one with failures
	seed     maphash.Seed

	mu      sync.Mutex
	counts  [tableSize]failure
	waiting map[string]int // logins under way, by address
}

type failure struct {
	n    int
	last time.Time
}

const (
	tableSize  = 1 << 14
	free       = 3 // failures that cost nothing
	firstDelay = 100 * time.Millisecond
)

func newFailures(cfg Config) *failures {
	return &failures{
		maxDelay: cfg.MaxDelay, forget: cfg.Forget, most: max(1, cfg.MaxWaiting/4),
		seed: maphash.MakeSeed(), waiting: make(map[string]int),
	}
}

// enter waits as long as a login must. Then it may be looked at; leave is to be
// called afterwards.
func (f *failures) enter(ctx context.Context, c parley.Credentials) (leave func(), err error) {
	f.mu.Lock()
	now, delay, most := time.Now(), time.Duration(0), f.most
	for i, k := range f.keys(c) {
		d := f.delay(k, now)
		delay = max(delay, d)
		if i == ofAddress && d > 0 {
			most = max(1, most/4)
		}
	}
	if n := f.waiting[c.Address]; c.Address != "" && n >= most {
		f.mu.Unlock()
		return nil, parley.Errorf(parley.CodeOverloaded, "%d logins from %s are under way: limit %d", n, c.Address, most)
	}
	f.waiting[c.Address]++
	f.mu.Unlock()
	leave = func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.waiting[c.Address]--; f.waiting[c.Address] == 0 {
			delete(f.waiting, c.Address)
		}
	}
	if delay > 0 && !pause.For(ctx, delay) {
		leave()
		return nil, parley.Errorf(parley.CodeOverloaded, "given up while the login had to wait because of failed ones: %v", context.Cause(ctx))
	}
	return leave, nil
}

// delay is how long a login waits because of one of its keys. mu is held.
func (f *failures) delay(k uint64, now time.Time) time.Duration {
	c := &f.counts[k]
	if c.n <= free || now.Sub(c.last) > f.forget {
		return 0
	}
	return min(firstDelay<<min(c.n-free-1, 20), f.maxDelay)
}

// add takes note of a failed login.
func (f *failures) add(c parley.Credentials) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, k := range f.keys(c) {
		e := &f.counts[k]
		if now.Sub(e.last) > f.forget {
			e.n = 0
		}
		e.n++
		e.last = now
	}
}

// ofAddress is which of keys is the address's.
const ofAddress = 1

// keys are the places in the table of a login's account and address.
func (f *failures) keys(c parley.Credentials) []uint64 {
	user := c.User
	if c.Token != "" {
		user, _, _ = parley.ParseToken(c.Token)
	}
	keys := []uint64{maphash.String(f.seed, "user "+strings.ToLower(user)) % tableSize}
	if c.Address != "" {
		keys = append(keys, maphash.String(f.seed, "address "+c.Address)%tableSize)
	}
	return keys
}
