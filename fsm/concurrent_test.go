package fsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// TestReadersWhileApplying: readers see whole states only, while batches are
// applied, checkpoints written and snapshots replace everything.
func TestReadersWhileApplying(t *testing.T) {
	f := start(t, Config{CheckpointBytes: 4000, MaxDirtyBytes: 20_000})
	source := start(t, Config{})
	l, ls := newLogger(t, f), newLogger(t, source)
	const users = 20
	for i := range users {
		c := parley.CreateUser{Name: fmt.Sprintf("user%02d", i)}
		l.cmd(c)
		ls.cmd(c)
	}
	var stop atomic.Bool
	var readers sync.WaitGroup
	read := func(fn func(n int)) {
		readers.Go(func() {
			for n := 0; !stop.Load(); n++ {
				fn(n)
			}
		})
	}
	for range 3 {
		read(func(n int) {
			r := f.Inbox(parley.Inbox{User: fmt.Sprintf("user%02d", n%users)})
			if r.Code != parley.CodeOK {
				t.Errorf("%+v", r)
			}
			for i, m := range r.Messages {
				if m.ID != r.Cursor.ID+parley.MessageID(i)+1 || m.Body != fmt.Sprintf("%d/%d", r.Cursor.Incarnation>>16, m.ID) {
					t.Errorf("message %d after %d is %+v", i, r.Cursor.ID, m)
				}
			}
			if !r.More && r.Unread != uint64(len(r.Messages)) {
				t.Errorf("%d messages, %d unread", len(r.Messages), r.Unread)
			}
		})
	}
	read(func(int) {
		// One of the users is deleted and created in the same batch, under
		// another incarnation: nobody may see it missing.
		if r := f.Users(parley.Users{Pattern: "^user"}); len(r.Names) != users {
			t.Errorf("%d users: %v", len(r.Names), r.Names)
		}
	})
	read(func(int) {
		if _, sum, err := f.Digest(); err != nil || sum == "" {
			t.Error(err)
		}
		f.Members()
		f.Limits()
	})
	read(func(int) {
		meta, r, err := f.Snapshots().Open(checkpointID)
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		if n, err := io.Copy(io.Discard, r); err != nil && !errors.Is(err, errAborted) || err == nil && n != meta.Size {
			t.Errorf("%d of %d bytes: %v", n, meta.Size, err)
		}
	})

	round := func(n int, l *logger) {
		name := fmt.Sprintf("user%02d", n%users)
		inbox := l.f.Inbox(parley.Inbox{User: name})
		last, inc := uint64(inbox.Cursor.ID)+inbox.Unread, inbox.Cursor.Incarnation
		var requests []parley.Request
		for i := range uint64(10) {
			requests = append(requests, parley.Request{Command: parley.Send{To: name, Body: fmt.Sprintf("%d/%d", inc>>16, last+i+1)}})
		}
		requests = append(requests, parley.Request{Command: parley.Ack{User: name, UpTo: parley.Cursor{ID: parley.MessageID(last)}}})
		if n%7 == 0 {
			requests = append(requests, parley.Request{Command: parley.DeleteUser{Name: name}}, parley.Request{Command: parley.CreateUser{Name: name}})
		}
		l.do(requests...)
	}
	for n := range 300 {
		round(n, l)
		round(n, ls)
		if n%60 == 59 { // fall behind, and get a snapshot
			round(n+1, ls)
			ls.checkpoint()
			install(t, source, f)
			l.index = f.Applied()
		}
	}
	stop.Store(true)
	readers.Wait()
	if a, b := dump(t, f), dump(t, source); a != b {
		t.Errorf("%s\nwant\n%s", a, b)
	}
}

// TestBackPressure: apply waits while too much has changed since the last
// checkpoint, and no longer.
func TestBackPressure(t *testing.T) {
	f := start(t, Config{CheckpointBytes: 10_000, MaxDirtyBytes: 20_000})
	l := newLogger(t, f)
	l.cmd(parley.CreateUser{Name: "bob"})
	l.checkpoint()
	f.checkpoints.Lock() // no checkpoint gets on
	done := make(chan int)
	var n atomic.Int64
	go func() {
		for range 100 {
			l.cmd(parley.Send{To: "bob", Body: strings.Repeat("x", 1000)})
			n.Add(1)
		}
		close(done)
	}()
	eventually(t, "bound", func() bool {
		f.mu.RLock()
		defer f.mu.RUnlock()
		return f.st.unstored() >= 20_000
	})
	select {
	case <-done:
		t.Fatal("applied all without a checkpoint")
	case <-time.After(50 * time.Millisecond):
	}
	if got := n.Load(); got > 20 {
		t.Errorf("%d messages applied without a checkpoint", got)
	}
	f.checkpoints.Unlock()
	<-done
	if r := f.Inbox(parley.Inbox{User: "bob"}); r.Unread != 100 {
		t.Errorf("%d messages", r.Unread)
	}
}

// TestShortLived: mail that is read between two checkpoints leaves no trace in
// the file.
func TestShortLived(t *testing.T) {
	f := start(t, Config{CheckpointEvery: time.Hour})
	l := newLogger(t, f)
	l.cmd(parley.CreateUser{Name: "bob"})
	for i := range 50 {
		l.cmd(parley.Send{To: "bob", Body: "very secret"})
		l.cmd(parley.Ack{User: "bob", UpTo: parley.Cursor{ID: parley.MessageID(i + 1)}})
	}
	if got := f.st.active.memory(); got > costChange+costName {
		t.Errorf("%d bytes for a mailbox that is empty", got)
	}
	l.checkpoint()
	file, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(file), "secret") {
		t.Error("the message was written")
	}
}

func TestEvents(t *testing.T) {
	var got strings.Builder
	f := start(t, Config{OnEvents: func(events []Event) {
		for _, e := range events {
			fmt.Fprintf(&got, "%d %s %d %d %s\n", e.Kind, e.Key, e.Incarnation>>16, e.Message.ID, e.Message.Body)
		}
		got.WriteString("-\n")
	}})
	create, send := parley.CreateUser{Name: "Bob"}, parley.Send{To: "BOB", Body: "one"}
	f.ApplyBatch([]*raft.Log{
		entryOf(t, 1, epoch, parley.Request{Command: create}, parley.Request{Command: send}),
		entryOf(t, 2, epoch, parley.Request{Command: send}, parley.Request{Command: send}),
	})
	f.ApplyBatch([]*raft.Log{entryOf(t, 3, epoch, parley.Request{Command: parley.DeleteUser{Name: "bob"}}, parley.Request{Command: parley.DeleteUser{Name: "bob"}})})
	f.ApplyBatch([]*raft.Log{entryOf(t, 3, epoch, parley.Request{Command: create})}) // applied before
	want := "1 bob 1 1 one\n1 bob 1 2 one\n1 bob 1 3 one\n-\n2 bob 1 0 \n-\n"
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestWaitApplied(t *testing.T) {
	f := start(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if err := f.WaitApplied(ctx, 3); err != nil || f.Applied() < 3 {
			t.Errorf("%v at %d", err, f.Applied())
		}
	})
	waiting.Go(func() {
		if err := f.WaitApplied(ctx, 4); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
	l := newLogger(t, f)
	for range 3 {
		l.do()
	}
	cancel()
	waiting.Wait()
	waiting.Go(func() {
		if err := f.WaitApplied(t.Context(), 4); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
	if r := f.Users(parley.Users{}); r.Code.IsAnswer() {
		t.Errorf("answer after Close: %+v", r)
	}
}

// TestCutGenerationsDoNotChange: what is being stored, without a lock, is not
// what commands write to.
func TestCutGenerationsDoNotChange(t *testing.T) {
	f := start(t, Config{CheckpointEvery: time.Hour})
	h := generate(t, rand.New(rand.NewPCG(3, 3)), 300)
	write := func(g *generation) string {
		var b strings.Builder
		for _, c := range g.byName() {
			fmt.Fprintln(&b, *c)
		}
		g.mail.all(func(pos uint64, value []byte) { fmt.Fprintln(&b, pos, value) })
		fmt.Fprintln(&b, g.read)
		for _, id := range slices.Sorted(maps.Keys(g.sessions)) {
			fmt.Fprintln(&b, id, g.sessions[id] != nil)
			if s := g.sessions[id]; s != nil {
				fmt.Fprintln(&b, s.answered, s.used, s.replies)
			}
		}
		fmt.Fprintln(&b, g.names, g.members, g.limits, g.raftMeta, g.counts)
		return b.String()
	}
	for i := 0; i < len(h.logs); i += 30 {
		f.ApplyBatch(h.logs[i : i+15])
		g, _, err := f.cut()
		if err != nil {
			t.Fatal(err)
		}
		before := write(g)
		f.ApplyBatch(h.logs[i+15 : i+30])
		if after := write(g); after != before {
			t.Fatalf("was\n%s\nis\n%s", before, after)
		}
		if err := f.st.db.Update(g.write); err != nil { // as checkpoint does
			t.Fatal(err)
		}
		g.stored = true
	}
	if got := dump(t, f); got != h.dump {
		t.Errorf("got\n%s\nwant\n%s", got, h.dump)
	}
}
