package client

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
)

func send(t *testing.T, s *parley.Session, to string, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		must(t, s, parley.Send{To: to, Body: body})
	}
}

// A watch goes on after each loss, without gap or repeat.
func TestWatchResumes(t *testing.T) {
	const n = 60
	cl := newCluster(t, 3)
	c := open(t, Config{Servers: cl.addrs()})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i, body := range numbers(n) {
			if _, err := s.Do(testContext(t), parley.Send{To: "bob", Body: body}); err != nil {
				t.Error(err)
				return
			}
			switch i % 15 {
			case 3:
				cl.lead((i / 3) % 3)
			case 8:
				cl.fake.EndWatches(parley.Errorf(parley.CodeInterrupted, "leadership lost"))
			case 13:
				cl.nodes[0].kill()
				cl.nodes[0].restart()
			}
		}
	}()
	var got []string
	for m, err := range c.Watch(testContext(t), "bob", parley.Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, m.Body); len(got) == n {
			break
		}
	}
	<-sent // the last message may come before the answer to its sender
	if !slices.Equal(got, numbers(n)) {
		t.Errorf("got %v", got)
	}
}

// A user that is deleted ends the watch, even if all that happens, and another
// takes the name, while the client is not connected and has shown nothing yet.
func TestWatchEndsWithUser(t *testing.T) {
	cl := newCluster(t, 1)
	c := open(t, Config{Servers: cl.addrs()})
	must(t, c.Session(), parley.CreateUser{Name: "bob"})
	ended := make(chan error, 1)
	go func() {
		for m, err := range c.Watch(testContext(t), "bob", parley.Cursor{}) {
			if err == nil {
				err = fmt.Errorf("message %q", m.Body)
			}
			ended <- err
			return
		}
	}()
	eventually(t, "watching", func() bool { return cl.fake.Watches() == 1 })
	cl.nodes[0].kill()
	for _, cmd := range []parley.Command{parley.DeleteUser{Name: "bob"}, parley.CreateUser{Name: "bob"}, parley.Send{To: "bob", Body: "not yours"}} {
		if _, err := parley.Do(testContext(t), cl.fake, parley.Request{Command: cmd}); err != nil {
			t.Fatal(err)
		}
	}
	cl.nodes[0].restart()
	if err := <-ended; parley.CodeOf(err) != parley.CodeNoSuchUser {
		t.Errorf("ended with %v", err)
	}
}

// A consumer that does not consume holds up nothing else.
func TestWatchSlowConsumer(t *testing.T) {
	cl := newCluster(t, 1)
	c := open(t, Config{Servers: cl.addrs()})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	first, goOn := make(chan struct{}), make(chan struct{})
	seen := make(chan int, 1)
	const n = 2000
	go func() {
		count := 0
		for m, err := range c.Watch(ctx, "bob", parley.Cursor{}) {
			if err != nil || m.Body != fmt.Sprint(count+1) {
				t.Errorf("message %d: %q, %v", count+1, m.Body, err)
				break
			}
			if count++; count == 1 {
				close(first)
				<-goOn
			}
			if count == n {
				break
			}
		}
		seen <- count
	}()
	send(t, s, "bob", "1")
	<-first
	send(t, s, "bob", numbers(n)[1:]...)
	if got := len(bodies(t, c, "bob")); got != n {
		t.Errorf("%d in the mailbox", got)
	}
	close(goOn)
	if got := <-seen; got != n {
		t.Errorf("saw %d of %d", got, n)
	}
}

func TestWatchContext(t *testing.T) {
	cl := newCluster(t, 1)
	c := open(t, Config{Servers: cl.addrs()})
	must(t, c.Session(), parley.CreateUser{Name: "bob"})
	ctx, cancel := context.WithCancel(context.Background())
	eventually(t, "connected", func() bool { id, _ := c.Node(); return id != "" })
	go func() {
		eventually(t, "watching", func() bool { return cl.fake.Watches() == 1 })
		cancel()
	}()
	for _, err := range c.Watch(ctx, "bob", parley.Cursor{}) {
		if err != context.Canceled {
			t.Errorf("ended with %v", err)
		}
	}
}

// Receive acknowledges what has been read, in few commands, and no more.
func TestReceiveAcknowledges(t *testing.T) {
	const n = 1000
	cl := newCluster(t, 1)
	var acks atomic.Int64
	cl.fake.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.Ack); ok {
			acks.Add(1)
		}
		return parleytest.Fault{}
	})
	c := open(t, Config{Servers: cl.addrs()})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	send(t, s, "bob", numbers(n)...)
	count, began := 0, time.Now()
	for _, err := range c.Receive(testContext(t), "bob", parley.Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		if count++; count == n {
			break
		}
		if count%10 == 0 {
			time.Sleep(time.Millisecond) // a consumer that does something
		}
	}
	most := n/ackMessages + int64(time.Since(began)/ackDelay) + 2
	if got := bodies(t, c, "bob"); !slices.Equal(got, []string{fmt.Sprint(n)}) { // the last one was not gone past
		t.Errorf("left: %v", got)
	}
	if got := acks.Load(); got > most {
		t.Errorf("%d acknowledgements for %d messages", got, n)
	}
}

// A single message is acknowledged soon, although nothing follows it.
func TestReceiveAcknowledgesSoon(t *testing.T) {
	cl := newCluster(t, 1)
	c := open(t, Config{Servers: cl.addrs()})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range c.Receive(ctx, "bob", parley.Cursor{}) {
		}
	}()
	send(t, s, "bob", "1")
	began := time.Now()
	eventually(t, "acknowledged", func() bool { return len(bodies(t, c, "bob")) == 0 })
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
	// A failing acknowledgement is made good.
	var failures atomic.Int64
	cl.fake.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.Ack); ok && failures.Add(1) < 3 {
			return parleytest.Fault{Err: parley.Errorf(parley.CodeUnsupported, "not now")}
		}
		return parleytest.Fault{}
	})
	send(t, s, "bob", "2")
	eventually(t, "acknowledged", func() bool { return len(bodies(t, c, "bob")) == 0 })
	cancel()
	<-done
}

// What has been read when the context ends is still acknowledged.
func TestReceiveLastAcknowledgement(t *testing.T) {
	cl := newCluster(t, 1)
	c := open(t, Config{Servers: cl.addrs()})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	send(t, s, "bob", "1", "2")
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	for m, err := range c.Receive(ctx, "bob", parley.Cursor{}) {
		if err == nil && m.Body == "2" {
			cancel()
		}
	}
	if got := bodies(t, c, "bob"); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}
