package fsm

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// TestPace: with a disk that stores less than what comes, memory does not fill
// up, and no batch waits for long.
func TestPace(t *testing.T) {
	cfg, err := Config{Dir: "x"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	const stores, batch = 20 << 20, 100 << 10 // bytes a second, bytes a batch
	p := newPace(cfg)
	var unstored, longest, total float64
	for range 10_000 {
		unstored += batch
		pause := p.pause(int64(unstored), stores)
		took := pause + 500*time.Microsecond // the batch itself: ten times what is stored
		unstored = max(0, unstored-took.Seconds()*stores)
		p.was = int64(unstored)
		longest, total = max(longest, pause.Seconds()), total+took.Seconds()
	}
	if int64(unstored) >= cfg.MaxDirtyBytes || int64(unstored) <= 2*cfg.CheckpointBytes {
		t.Errorf("%.0f MiB are unstored in the end", unstored/(1<<20))
	}
	if longest > 0.02 {
		t.Errorf("a batch waited for %.3f s", longest)
	}
	if rate := 10_000 * batch / total; rate < 0.9*stores {
		t.Errorf("%.0f bytes/s were applied, %d could be stored", rate, stores)
	}
}

func TestPaceBounds(t *testing.T) {
	p := pace{from: 100, to: 200}
	for i, c := range []struct {
		unstored, perSecond int64
		want                time.Duration
	}{
		{100, 1000, 0}, {150, 10_000, 5 * time.Millisecond}, {120, 1000, 0}, {160, 0, 0}, {170, 1000, 14 * time.Millisecond}, {199, 1, longestPause},
	} {
		if got := p.pause(c.unstored, c.perSecond); got != c.want {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
	}
	if got := (&pace{from: 100, to: 100}).pause(150, 1); got != 0 {
		t.Errorf("no room to slow down in: %v", got)
	}
}

// TestWanted: what only appends is stored in small pieces, other changes in large ones.
func TestWanted(t *testing.T) {
	f := start(t, Config{CheckpointBytes: smallPart * 10_000, CheckpointEvery: time.Hour})
	f.due.Store(80_000)
	for _, c := range []struct {
		messages, users, read int
		wanted                bool
	}{
		{messages: 8}, {messages: 12, wanted: true}, {messages: 12, users: 1, wanted: true}, {messages: 12, read: 1, wanted: true},
		{messages: 12, users: 8}, {messages: 12, read: 8}, {messages: 85, users: 80, wanted: true}, {users: 300},
		{users: 80_000/costChange + 1, wanted: true},
	} {
		g, table := newGeneration(2), newDirectory()
		for i := range c.messages {
			g.mail.add(uint64(i), head{}, strings.Repeat("x", 1000))
		}
		for range c.users {
			g.change(table, table.add("ann", "ann", user{}))
		}
		g.read = make([]uint64, c.read)
		small := c.wanted && g.memory() < 80_000
		if got := f.wanted(g); got != (c.wanted && !small) {
			t.Errorf("%+v, a moment after the last checkpoint: wanted %v", c, got)
		}
		g.begun = g.begun.Add(-smallEvery)
		if got := f.wanted(g); got != c.wanted {
			t.Errorf("%+v: wanted %v", c, got)
		}
	}
}

// TestLull: what has changed is stored as soon as nothing comes any more, unless it
// is hardly worth it.
func TestLull(t *testing.T) {
	f := start(t, Config{CheckpointBytes: smallPart * 10_000, CheckpointEvery: time.Hour})
	l := newLogger(t, f)
	l.cmd(parley.CreateUser{Name: "ann"})
	l.cmd(parley.Send{To: "ann", Body: strings.Repeat("x", 1000)})
	for range 12 {
		l.cmd(parley.Send{To: "ann", Body: strings.Repeat("x", 1000)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := f.stored.wait(ctx, f.Applied()); err != nil {
		t.Fatalf("nothing is stored from entry %d on, %d were applied: %v", f.stored.get(), f.Applied(), err)
	}
	for range 12 {
		l.cmd(parley.Send{To: "ann", Body: strings.Repeat("x", 1000)})
	}
	if l.checkpoint(); f.lull.Stop() {
		t.Error("another checkpoint comes after one that was not waited for in a lull")
	}
	if !f.welcome(&generation{mail: arrivals{bytes: 10_000}}) || f.welcome(&generation{mail: arrivals{bytes: 9_999}}) {
		t.Error("what is welcome is not what was meant")
	}
	f.due.Store(lullPart * 1_000)
	if !f.welcome(&generation{changed: 1_000, bytes: 1_000}) || f.welcome(&generation{changed: 1_000, bytes: 999}) {
		t.Error("changes that are welcome are not those that were meant")
	}
}

// TestFirstCheckpoint: after a start, entries that change little are stored early, so
// that the next start need not apply them; later ones are not.
func TestFirstCheckpoint(t *testing.T) {
	dir := t.TempDir()
	var l *logger
	for life := range 3 {
		f := start(t, Config{Dir: dir, ReplayBytes: firstPart * 10_000, CheckpointEvery: time.Hour})
		if life == 0 {
			l = newLogger(t, f)
			l.cmd(parley.CreateUser{Name: "ann"})
		}
		l.f = f
		before := f.stored.get()
		for id := range parley.MessageID(14) {
			l.cmd(parley.Send{To: "ann", Body: strings.Repeat("x", 1000)})
			l.cmd(parley.Ack{User: "ann", UpTo: parley.Cursor{ID: parley.MessageID(14*life) + id + 1}})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := f.stored.wait(ctx, before+1); err != nil {
			t.Errorf("life %d: nothing is stored behind entry %d: %v", life, before, err)
		}
		cancel()
		g := newGeneration(firstGeneration + 1)
		if g.logged = firstPart*10_000 - 1; f.wanted(g) {
			t.Errorf("life %d: a later checkpoint comes as early as the first", life)
		}
		f.Close()
	}
}
