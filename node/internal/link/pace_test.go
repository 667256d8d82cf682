package link

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// slowpoke is a transport whose followers take a while to answer.
type slowpoke struct {
	*raft.InmemTransport
	took map[raft.ServerID]time.Duration
	err  error
}

func (s *slowpoke) AppendEntries(id raft.ServerID, _ raft.ServerAddress, _ *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) error {
	time.Sleep(s.took[id])
	return s.err
}

const every = 80 * time.Millisecond

// newPaced returns a link that paces heartbeats, and a function that sends one and
// says how long after the beginning it left and how long all took.
func newPaced(t *testing.T, inner *slowpoke) (*Transport, func(raft.ServerID) time.Duration) {
	_, inner.InmemTransport = raft.NewInmemTransport("a")
	c := config(inner, "server-a")
	c.HeartbeatEvery = every
	link, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	return link, func(id raft.ServerID) time.Duration {
		err := link.AppendEntries(id, "b", &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1}, new(raft.AppendEntriesResponse))
		if !errors.Is(err, inner.err) {
			t.Errorf("%v instead of %v", err, inner.err)
		}
		return time.Since(begun) - inner.took[id]
	}
}

// Heartbeats go out to all followers that answer at once at the same moments, none
// later than HeartbeatEvery after the one before.
func TestHeartbeatsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &slowpoke{took: map[raft.ServerID]time.Duration{"b": time.Millisecond, "c": 2 * time.Millisecond}}
		link, send := newPaced(t, inner)
		defer link.Close()
		if left := send("b"); left != 0 {
			t.Errorf("the first one left after %v", left)
		}
		time.Sleep(30 * time.Millisecond)
		send("c")
		for i := 1; i < 5; i++ {
			done := make(chan time.Duration)
			go func() { done <- send("c") }()
			time.Sleep(25 * time.Millisecond)
			b, c := send("b"), <-done
			if b != time.Duration(i)*every || c != b {
				t.Errorf("number %d left after %v and %v", i, b, c)
			}
		}
		time.Sleep(every)
		if left, now := send("b"), 5*every+inner.took["c"]; left != now {
			t.Errorf("the late one left after %v, not at once after %v", left, now)
		}
	})
}

// What is slow or gone gets its heartbeats when Raft sends them.
func TestHeartbeatsToTheBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &slowpoke{took: map[raft.ServerID]time.Duration{"b": 2 * prompt}}
		link, send := newPaced(t, inner)
		defer link.Close()
		send("b")
		if left := send("b"); left != 2*prompt {
			t.Errorf("the second one to a slow follower left after %v", left)
		}
		inner.took["b"], inner.err = 0, errors.New("it is gone")
		for range 2 {
			if left := send("b"); left != 4*prompt {
				t.Errorf("one to a follower that is gone left after %v", left)
			}
		}
	})
}

// Heartbeats that ask whether a follower still follows do not wait, and nothing
// waits any more once the link refuses.
func TestHeartbeatsThatDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link, send := newPaced(t, &slowpoke{})
		defer link.Close()
		send("b")
		begun := time.Now()
		if err := link.Heartbeat("b", "b", &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1}, new(raft.AppendEntriesResponse)); err != nil || time.Since(begun) > 0 {
			t.Errorf("a question: %v after %v", err, time.Since(begun))
		}
		time.AfterFunc(every/4, link.Refuse)
		err := link.AppendEntries("b", "b", &raft.AppendEntriesRequest{RPCHeader: head(), Term: 1}, new(raft.AppendEntriesResponse))
		if took := time.Since(begun); !errors.Is(err, errRefused) || took != every/4 {
			t.Errorf("when the link refuses: %v after %v", err, took)
		}
	})
}
