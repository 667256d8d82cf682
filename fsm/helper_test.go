package fsm

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// epoch is when the tests' clocks start.
var epoch = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

// start opens an FSM that is closed with the test, and whose failure fails it.
func start(t testing.TB, cfg Config) *FSM {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Fatal == nil {
		cfg.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	if cfg.MapBytes == 0 {
		cfg.MapBytes = 64 << 20
	}
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil && f.Err() == ErrClosed {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

// entryOf makes a log entry of requests.
func entryOf(t testing.TB, index uint64, stamp time.Time, requests ...parley.Request) *raft.Log {
	t.Helper()
	var b Batch
	for _, r := range requests {
		if answer, answered := b.Add(r); answered {
			t.Fatalf("%+v was answered without the log: %+v", r, answer)
		}
	}
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: append([]byte(nil), b.Encode(stamp)...)}
}

// log applies entries one after the other, as a leader would.
type logger struct {
	t     testing.TB
	f     *FSM
	index uint64
	now   time.Time
}

func newLogger(t testing.TB, f *FSM) *logger {
	return &logger{t: t, f: f, index: f.Applied(), now: epoch}
}

// do applies an entry and returns its results.
func (l *logger) do(requests ...parley.Request) []parley.Result {
	l.t.Helper()
	l.index++
	r, ok := l.f.Apply(entryOf(l.t, l.index, l.now, requests...)).([]parley.Result)
	if !ok || len(r) != len(requests) {
		l.t.Fatalf("entry %d: results %v", l.index, r)
	}
	return r
}

// cmd applies one command without a session.
func (l *logger) cmd(c parley.Command) parley.Result {
	l.t.Helper()
	return l.do(parley.Request{Command: c})[0]
}

func (l *logger) checkpoint() {
	l.t.Helper()
	if err := l.f.Checkpoint(context.Background()); err != nil {
		l.t.Fatal(err)
	}
}

func mustDigest(t testing.TB, f *FSM) string {
	t.Helper()
	index, sum, err := f.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if want := f.Applied(); index != want {
		t.Fatalf("digest at index %d, want %d", index, want)
	}
	return sum
}

// dump writes down all that can be asked of the state.
func dump(t testing.TB, f *FSM) string {
	t.Helper()
	var b strings.Builder
	after := ""
	for {
		r := f.Users(parley.Users{After: after})
		if r.Code != parley.CodeOK {
			t.Fatalf("users: %+v", r)
		}
		for _, name := range r.Names {
			dumpUser(t, f, &b, name)
		}
		if !r.More {
			break
		}
		after = r.Names[len(r.Names)-1]
	}
	for _, m := range f.Members() {
		fmt.Fprintf(&b, "member %s server=%s client=%s peer=%s\n", m.ID, m.Server, m.Client, m.Peer)
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	owned := make(map[uint64]int)
	for _, s := range f.st.sessions {
		owned[s.user]++
	}
	if !maps.Equal(owned, f.st.owned) {
		t.Errorf("sessions by owner: %v, counted as %v", owned, f.st.owned)
	}
	fmt.Fprintf(&b, "users=%d sessions=%d replies=%d\n", f.st.users, len(f.st.sessions), f.st.replies)
	return b.String()
}

func dumpUser(t testing.TB, f *FSM, b *strings.Builder, name string) {
	var after parley.Cursor
	for first := true; ; first = false {
		r := f.Inbox(parley.Inbox{User: name, After: after})
		if r.Code != parley.CodeOK {
			t.Fatalf("inbox of %s: %+v", name, r)
		}
		if first {
			fmt.Fprintf(b, "user %s incarnation=%#x cursor=%d unread=%d\n", name, uint64(r.Cursor.Incarnation), r.Cursor.ID, r.Unread)
		}
		for _, m := range r.Messages {
			fmt.Fprintf(b, "  %d %s <%s> %s\n", m.ID, m.Time.Format("15:04:05"), m.From, m.Body)
			after = m.Cursor
		}
		if !r.More {
			return
		}
	}
}

func in(id parley.SessionID, seq, answered uint64, c parley.Command) parley.Request {
	return parley.Request{Session: id, Seq: seq, Answered: answered, Command: c}
}
