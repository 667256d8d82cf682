package node

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// reader watches a mailbox, again from where it was when the watch ends with an
// error that allows it, and checks that there is neither gap nor repetition.
func reader(ctx context.Context, t *testing.T, n *Node, user string, got chan<- parley.Message) {
	var at parley.Cursor
	for ctx.Err() == nil {
		for m, err := range n.Watch(ctx, user, at) {
			if err != nil {
				if ctx.Err() == nil && !parley.CodeOf(err).Retryable() {
					t.Errorf("watch: %v", err)
				}
				break
			}
			if m.ID != at.ID+1 {
				t.Errorf("message %d after %d", m.ID, at.ID)
				return
			}
			at = m.Cursor
			got <- m
		}
		time.Sleep(time.Millisecond)
	}
}

func TestWatchAcrossLeaders(t *testing.T) {
	c := newCluster(t, 3, nil)
	must(t, c.leader(), parley.CreateUser{Name: "box"})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	watches := make([]chan parley.Message, 3)
	for i, n := range c.all() {
		watches[i] = make(chan parley.Message, 4096)
		wg.Go(func() { reader(ctx, t, n, "box", watches[i]) })
	}
	l := startLoad(t, c.all())
	for range 3 {
		old := c.leader().cfg.Name
		c.f.isolate(old, true)
		before := l.total()
		c.leader(c.others(old)...)
		eventually(t, patience, "messages", func() bool { return l.total() > before+20 })
		c.f.isolate(old, false)
		c.leader()
	}
	l.end(c.leader())
	for i := range watches {
		for k := range l.total() {
			select {
			case <-watches[i]:
			case <-time.After(patience):
				t.Fatalf("watch %d saw %d of %d messages", i, k, l.total())
			}
		}
	}
}

// A watcher that falls behind reads the mailbox, and misses only what another
// reader has acknowledged meanwhile.
func TestSlowWatcher(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.leader()
	must(t, n, parley.CreateUser{Name: "box"})
	send := func(from, to int) {
		var wg sync.WaitGroup
		for i := from; i < to; i++ {
			wg.Add(1)
			n.Start(context.Background(), parley.Request{Command: parley.Send{To: "box", Body: fmt.Sprint(i)}},
				func(r parley.Result, err error) {
					if err != nil || r.Code != parley.CodeOK {
						t.Errorf("send: %v %v", r, err)
					}
					wg.Done()
				})
		}
		wg.Wait()
	}
	send(0, 1)
	next := 0
	for m, err := range n.Watch(deadline(t, patience), "box", parley.Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Body != fmt.Sprint(next) {
			t.Fatalf("message %q, want %d", m.Body, next)
		}
		switch next++; next {
		case 1:
			send(1, 2000) // far more than a watcher's queue
		case 2000:
			send(2000, 2100)
			must(t, n, parley.Ack{User: "box", UpTo: parley.Cursor{ID: 2100}}) // in the queue already
		case 2100:
			send(2100, 4000)
			must(t, n, parley.Ack{User: "box", UpTo: parley.Cursor{ID: 3990}}) // no longer in the queue
			next = 3990
		}
		if next == 4000 {
			return
		}
	}
}

func TestWatchLargeMail(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.leader()
	must(t, n, parley.CreateUser{Name: "box"})
	body := strings.Repeat("x", 60<<10)
	seen := 0
	for range 3 {
		must(t, n, parley.Send{To: "box", Body: body})
	}
	for m, err := range n.Watch(deadline(t, patience), "box", parley.Cursor{}) {
		if err != nil || len(m.Body) != len(body) {
			t.Fatal(len(m.Body), err)
		}
		if seen++; seen == 1 {
			for range 20 { // more than a watcher's queue holds
				must(t, n, parley.Send{To: "box", Body: body})
			}
		}
		if seen == 23 {
			return
		}
	}
}

func TestWatchEndsWithTheNode(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.leader()
	must(t, n, parley.CreateUser{Name: "box"})
	must(t, n, parley.Send{To: "box", Body: "x"})
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for _, err := range n.Watch(context.Background(), "box", parley.Cursor{}) {
			if err != nil {
				ended <- err
				return
			}
			close(started)
		}
	}()
	<-started
	c.stop("n1")
	if err := <-ended; parley.CodeOf(err) != parley.CodeShuttingDown {
		t.Errorf("the watch ended with %v", err)
	}
}
