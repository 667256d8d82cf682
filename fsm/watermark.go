package fsm

import (
	"context"
	"slices"
	"sync"
)

// watermark is a number that grows, and that can be waited for. It is safe for
// concurrent use.
type watermark struct {
	mu      sync.Mutex
	value   uint64
	err     error // it will not grow any more
	waiting []waiter
}

type waiter struct {
	value uint64
	done  chan struct{}
}

func (w *watermark) get() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.value
}

// advance raises the value and wakes those who wait for it.
func (w *watermark) advance(value uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.value = max(w.value, value)
	w.wake(func(v uint64) bool { return v <= w.value })
}

// fail makes all waiting end with err.
func (w *watermark) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.wake(func(uint64) bool { return true })
}

func (w *watermark) wake(which func(uint64) bool) {
	w.waiting = slices.DeleteFunc(w.waiting, func(x waiter) bool {
		if !which(x.value) {
			return false
		}
		close(x.done)
		return true
	})
}

// wait returns nil once the value has been reached.
func (w *watermark) wait(ctx context.Context, value uint64) error {
	w.mu.Lock()
	if w.value >= value || w.err != nil {
		defer w.mu.Unlock()
		return w.outcome(value)
	}
	x := waiter{value, make(chan struct{})}
	w.waiting = append(w.waiting, x)
	w.mu.Unlock()
	select {
	case <-x.done:
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.outcome(value)
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		w.waiting = slices.DeleteFunc(w.waiting, func(y waiter) bool { return y.done == x.done })
		return context.Cause(ctx)
	}
}

func (w *watermark) outcome(value uint64) error {
	if w.value >= value {
		return nil
	}
	return w.err
}
