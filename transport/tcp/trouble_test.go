package tcp_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport/tcp"
)

// TestNoAnswer: without a majority, commands are answered error in time.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tcp.Config{CommandTimeout: 50 * time.Millisecond})
	w.run(parley.CreateUser{Name: "u"})
	noQuorum := parley.Errorf(parley.CodeNoQuorum, "alone")
	for name, fault := range map[string]parleytest.Fault{
		"refused":   {Err: noQuorum},
		"no answer": {Err: noQuorum, Hold: make(chan struct{})},
		"for good":  {Err: parley.Errorf(parley.CodeUnsupported, "")},
	} {
		c := w.dial()
		w.fake.OnStart(func(parley.Request) parleytest.Fault { return fault })
		w.fake.OnGet(func(parley.Query) error { return noQuorum })
		for _, f := range [][2]string{{"create", "v"}, {"delete", "u"}, {"send", "u,x"}, {"list", ""}, {"connect", "u"}} {
			c.say(f[0], f[1])
			if got := c.hear(); got != "error" {
				t.Errorf("%s: %s: %q", name, f[0], got)
			}
		}
		w.fake.OnStart(nil)
		w.fake.OnGet(nil)
		c.ask("send", "u,"+name, "ok") // as if nothing had been
		c.ask("connect", "u", "string "+name, "ok")
		w.allRead("u")
		c.nc.Close()
		w.eventually("the watch ends", func() bool { return w.fake.Watches() == 0 })
	}
}

// TestConnectWithoutLeader: the mail is there but cannot be had: connect fails
// and leaves no user.
func TestConnectWithoutLeader(t *testing.T) {
	w := newWorld(t, tcp.Config{CommandTimeout: 50 * time.Millisecond})
	w.run(parley.CreateUser{Name: "u"})
	w.run(parley.Send{To: "u", Body: "x"})
	w.fake.OnWatch(func(string) error {
		w.fake.OnGet(func(parley.Query) error { return parley.Errorf(parley.CodeNoQuorum, "") })
		return parley.Errorf(parley.CodeNotLeader, "")
	})
	c := w.dial()
	c.ask("connect", "u", "error")
	w.fake.OnWatch(nil)
	w.fake.OnGet(nil)
	c.silent()
	c.ask("connect", "u", "string x", "ok")
}

// TestConnectAnswersOnce: the mail is caught up with while a look at the mailbox
// is under way, and that fails.
func TestConnectAnswersOnce(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	w.run(parley.Send{To: "u", Body: "x"})
	looked, watch, failing := make(chan struct{}), make(chan struct{}), make(chan struct{})
	n := 0
	w.fake.OnGet(func(parley.Query) error {
		if n++; n < 2 { // the first one belongs to the beginning of connect
			return nil
		}
		close(looked)
		<-failing
		return parley.Errorf(parley.CodeUnsupported, "")
	})
	w.fake.OnWatch(func(string) error { <-watch; return nil })
	c := w.dial()
	c.say("connect", "u")
	<-looked
	close(watch)
	c.expect("string x", "ok")
	w.fake.OnGet(nil)
	close(failing)
	c.silent()
	w.run(parley.Send{To: "u", Body: "y"})
	c.expect("string y")
}

// TestLeaderChanges: classic clients do not notice.
func TestLeaderChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	reader, sender := w.dial(), w.dial()
	reader.ask("connect", "u", "ok")
	codes := []parley.Code{parley.CodeNotLeader, parley.CodeInterrupted, parley.CodeNoQuorum, parley.CodeShuttingDown, parley.CodeOverloaded}
	for i, code := range codes {
		err := parley.Errorf(code, "")
		var mu sync.Mutex
		left := 5
		w.fake.OnStart(func(r parley.Request) parleytest.Fault {
			mu.Lock()
			defer mu.Unlock()
			if left--; left < 0 {
				return parleytest.Fault{}
			}
			return parleytest.Fault{Err: err, Applied: r.Session != 0 && !code.NotApplied()}
		})
		w.fake.OnWatch(func(string) error {
			mu.Lock()
			defer mu.Unlock()
			if left > 0 {
				return err
			}
			return nil
		})
		w.fake.EndWatches(err)
		sender.ask("send", fmt.Sprintf("u,%d", i), "ok")
		reader.expect(fmt.Sprintf("string %d", i))
	}
	w.allRead("u")
	reader.silent()
}

// TestResumesWithoutAcks: neither the answer to connect nor the place at which an
// interrupted watch goes on depends on acknowledgements.
func TestResumesWithoutAcks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tcp.Config{CommandTimeout: time.Second})
	w.run(parley.CreateUser{Name: "u"})
	for i := range 3 {
		w.run(parley.Send{To: "u", Body: fmt.Sprint(i)})
	}
	w.fake.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.Ack); ok {
			return parleytest.Fault{Err: parley.Errorf(parley.CodeNoQuorum, "")}
		}
		return parleytest.Fault{}
	})
	c := w.dial()
	c.ask("connect", "u", "string 0", "string 1", "string 2", "ok")
	for i := 3; i < 10; i++ {
		w.fake.EndWatches(parley.Errorf(parley.CodeNotLeader, ""))
		w.run(parley.Send{To: "u", Body: fmt.Sprint(i)})
		c.expect(fmt.Sprintf("string %d", i))
	}
	c.silent()
	if got := w.unread("u"); len(got) != 10 {
		t.Errorf("unread: %q", got)
	}
}

// TestDeletedWhileConnecting: between the look into the mailbox and the watch.
func TestDeletedWhileConnecting(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	w.run(parley.Send{To: "u", Body: "x"})
	w.fake.OnWatch(func(string) error {
		w.run(parley.DeleteUser{Name: "u"})
		return nil
	})
	c := w.dial()
	c.ask("connect", "u", "notok")
	c.silent()
}

// TestWatchRefused: better no connection than one that brings nothing.
func TestWatchRefused(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	c := w.dial()
	c.ask("connect", "u", "ok")
	w.eventually("the watch is there", func() bool { return w.fake.Watches() == 1 }) // ok is said before
	w.fake.EndWatches(parley.Errorf(parley.CodeUnsupported, ""))
	c.gone()
}

// TestTwoConnections: both get live messages, the queue is drained once.
func TestTwoConnections(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	w.run(parley.Send{To: "u", Body: "queued"})
	a, b := w.dial(), w.dial()
	a.ask("connect", "u", "string queued", "ok")
	w.allRead("u")
	b.ask("connect", "u", "ok")
	w.eventually("both watch", func() bool { return w.fake.Watches() == 2 }) // ok is said before
	sender := w.dial()
	for i := range 50 {
		sender.ask("send", fmt.Sprintf("u,%d", i), "ok")
		a.expect(fmt.Sprintf("string %d", i))
		b.expect(fmt.Sprintf("string %d", i))
	}
	a.nc.Close()
	w.eventually("one watch is left", func() bool { return w.fake.Watches() == 1 })
	w.run(parley.Send{To: "u", Body: "last"})
	b.expect("string last")
	w.allRead("u")
}
