package client

import (
	"context"
	"errors"
	"testing"

	"github.com/parley-chat/parley"
)

// TestSharedContexts: the end of a context ends the calls that have it and no
// others, and nobody listens to a context without calls.
func TestSharedContexts(t *testing.T) {
	c, err := New(Config{Servers: []string{"127.0.0.1:1"}}) // nobody is there
	if err != nil {
		t.Fatal(err)
	}
	one, endOne := context.WithCancel(t.Context())
	two, endTwo := context.WithCancel(t.Context())
	ctxs := []context.Context{one, two, context.WithValue(one, new(int), 1), context.Background()}
	type outcome struct {
		call int
		err  error
	}
	outcomes := make(chan outcome, 40)
	for i := range 40 {
		c.Start(ctxs[i%len(ctxs)], parley.Request{Command: parley.Ack{User: "bob"}}, func(_ parley.Result, err error) {
			outcomes <- outcome{i, err}
		})
	}
	watched := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.queue.endings)
	}
	if n := watched(); n != 2 {
		t.Errorf("%d contexts are watched", n)
	}
	for n, end := range []context.CancelFunc{endOne, endTwo} {
		end()
		for range 20 >> n {
			o := <-outcomes
			if ctxs[o.call%len(ctxs)].Err() == nil || !errors.Is(o.err, context.Canceled) {
				t.Errorf("call %d: %v", o.call, o.err)
			}
		}
		if left := watched(); left != 1-n {
			t.Errorf("%d contexts are watched", left)
		}
	}
	c.Close() //nolint:errcheck // always nil
	if n := len(outcomes); n != 10 {
		t.Errorf("%d calls ended with the client, want 10", n)
	}
}
