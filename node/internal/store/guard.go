package store

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// guard watches every operation on the disk. The first that fails, or that
// takes longer than timeout, is the last: nothing is tried again, since after a
// failed fsync the kernel may have dropped what was not written, and a second
// one would report success (hashicorp/raft #503, #614, #683).
type guard struct {
	timeout time.Duration
	fatal   func(error) // called once, if armed

	once   sync.Once
	failed atomic.Bool
	armed  atomic.Bool // Raft uses the store, see do
}

// do runs one operation.
//
// Raft goes on after a storage error, or panics. So its goroutine does not get
// to know: it ends here, and the process with it soon.
func (g *guard) do(what string, op func() error) error {
	if g.failed.Load() {
		return g.stop(errFailed)
	}
	started := time.Now()
	ended := g.watch(what)
	err := protect(op)
	ended()
	switch {
	case err != nil && !errors.Is(err, raft.ErrLogNotFound) && !errors.Is(err, errNotFound):
		err = fmt.Errorf("%s: %w", what, err)
		g.fail(err)
		return g.stop(err)
	case g.failed.Load():
		return g.stop(fmt.Errorf("%s took %v: %w", what, time.Since(started), errFailed))
	}
	return err
}

// watch fails if it is not told within timeout that an operation has ended. The
// time is counted in parts: a process that was stopped, by a signal or with its
// virtual machine, finds its timers expired when it goes on, and then only one
// part has passed. It is not the disk that hung.
func (g *guard) watch(what string) (ended func()) {
	const parts = 5
	var mu sync.Mutex
	passed, over := 0, false
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(g.timeout/parts, func() {
		mu.Lock()
		defer mu.Unlock()
		passed++
		switch {
		case over:
		case passed < parts:
			timer.Reset(g.timeout / parts)
		default:
			g.fail(fmt.Errorf("%s has not ended after %v: the disk hangs", what, g.timeout))
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}
}

var errFailed = errors.New("storage has failed")

func (g *guard) fail(err error) {
	g.once.Do(func() {
		g.failed.Store(true)
		if g.armed.Load() {
			g.fatal(err)
		}
	})
}

func (g *guard) stop(err error) error {
	if g.armed.Load() {
		runtime.Goexit()
	}
	return err
}

// protect turns the panics that damaged pages cause in bbolt, and faults of
// pages that cannot be read, into errors.
func protect(op func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return op()
}
