package fsm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"go.etcd.io/bbolt"
)

// Checkpoint waits until everything applied so far is in a synced checkpoint.
func (f *FSM) Checkpoint(ctx context.Context) error {
	return f.storedUpTo(ctx, f.Applied())
}

// storedUpTo asks for a checkpoint that reaches index, and waits for it.
func (f *FSM) storedUpTo(ctx context.Context, index uint64) error {
	if f.stored.get() < index {
		f.requestCheckpoint()
	}
	return f.stored.wait(ctx, index)
}

func (f *FSM) requestCheckpoint() { signal(f.wake) }

// signal wakes the one goroutine that receives from ch, now or when it next does.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // is already awake
	}
}

// checkpointer writes checkpoints when they are wanted or due.
func (f *FSM) checkpointer() {
	defer close(f.stopped)
	due := time.NewTicker(f.cfg.CheckpointEvery)
	defer due.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-f.failed:
			return
		case <-f.wake:
		case <-due.C:
		}
		if err := f.checkpoint(); err != nil {
			return // failed
		}
	}
}

// checkpoint stores what has changed, if anything has. An error is fatal: once
// a write or sync has failed, nobody knows what the disk holds.
func (f *FSM) checkpoint() error {
	f.checkpoints.Lock()
	defer f.checkpoints.Unlock()
	g, db, err := f.cut()
	if g == nil || err != nil {
		return err
	}
	start := time.Now()
	if err := guard(func() error { return db.Update(g.write) }); err != nil {
		err = fmt.Errorf("write checkpoint %s: %w", f.path, err)
		if !errors.Is(err, ErrDamaged) {
			err = fmt.Errorf("%w; nothing acknowledged is lost: put the disk in order, or make room on it, and start the node again", err)
		}
		f.fail(err)
		return err
	}
	took := time.Since(start)
	f.storing.Store(int64(float64(g.memory()) / max(took.Seconds(), 1e-3)))
	f.mu.Lock()
	g.stored = true
	f.mu.Unlock()
	f.stored.advance(g.index)
	f.setDue()
	signal(f.room)
	f.cfg.Logger.Debug("checkpoint", "index", g.index, "sessions", len(g.sessions), "bytes", g.memory(), "took", took)
	return nil
}

// wanted reports whether it is time for a checkpoint.
func (f *FSM) wanted(g *generation) bool {
	size := g.memory()
	return size >= f.due.Load() || g.logged >= f.replay(g) || f.small(g) && time.Since(g.begun) >= smallEvery
}

// firstPart is the part of ReplayBytes that starts the first checkpoint after a start.
const firstPart = 32

// replay is how many bytes of entries start a checkpoint. The first one after a start
// comes early: a node that is killed again and again would otherwise begin further
// back in the log each time, and need longer and longer, however little has changed.
func (f *FSM) replay(g *generation) int64 {
	if g.number == firstGeneration {
		return f.cfg.ReplayBytes / firstPart
	}
	return f.cfg.ReplayBytes
}

// A checkpoint that mainly appends starts with a small part of CheckpointBytes, but
// not more often than this: the less is stored at once, the less messages wait for
// the disk, or for the processor, while it is.
const (
	smallPart  = 64
	smallEvery = 100 * time.Millisecond
)

// small reports whether it costs no more to store the generation now than later.
func (f *FSM) small(g *generation) bool {
	return g.memory() >= f.cfg.CheckpointBytes/smallPart && g.appends()
}

// When nothing has come for a lull, and some part of what starts a checkpoint has
// changed, one is written: nobody has to wait for it now.
const (
	lull     = 250 * time.Millisecond
	lullPart = 8
)

// welcome reports whether a checkpoint is better written in a lull than later.
func (f *FSM) welcome(g *generation) bool {
	return f.small(g) || g.memory() >= f.due.Load()/lullPart
}

// setDue decides when the next checkpoint is to be written, if it is not a small
// one. One writes a page for almost every user that has changed, so that it costs
// less for each the more of a large file has changed. The members of a cluster apply the same entries;
// chance keeps them from all writing a checkpoint at the same moment.
func (f *FSM) setDue() {
	due := f.cfg.CheckpointBytes
	if info, err := os.Stat(f.path); err == nil {
		due = max(due, min(info.Size(), f.cfg.MaxDirtyBytes/4))
	}
	f.due.Store(due - due/4 + rand.Int64N(due/4+1))
}

// cut takes what has changed from the state, to be stored. It is nil if nothing
// has. What takes time is done before commands have to wait for it.
func (f *FSM) cut() (*generation, *bbolt.DB, error) {
	f.mu.RLock()
	number := f.st.active.number
	f.mu.RUnlock()
	next := newGeneration(number + 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil { // an entry may be applied in part
		return nil, nil, err
	}
	if f.st.raftMeta == f.st.older.raftMeta { // every change has an index
		return nil, nil, nil
	}
	f.lull.Stop() // whoever wanted what this one has needs no other
	select {
	case <-f.wake:
	default:
	}
	return f.st.cut(next), f.st.db, nil
}
