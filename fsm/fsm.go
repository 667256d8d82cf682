// Package fsm is Parley's replicated state: users, mailboxes, sessions, members
// and limits, changed by the log's entries and by nothing else.
//
// The state is memory over a checkpoint. Applying an entry changes memory only;
// a goroutine writes what has changed to a bbolt file now and then, all of it in
// one synced transaction that says up to which entry it goes. The log is the
// record of truth in between, so the file is consistent at every instant and
// only ever behind. The checkpoint is also the snapshot that Raft knows about:
// nothing is copied to make one. See docs/adr/0002-state-over-checkpoints.md.
//
// Three things can make it unusable: damage to what is stored, an error of the
// storage, and an entry that this version does not understand. Each is fatal:
// nothing is skipped, guessed or tried again.
package fsm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
)

// ErrClosed is returned by waiting methods once the FSM has been closed.
var ErrClosed = errors.New("state machine is closed")

// Config says how to open an FSM.
type Config struct {
	Dir string // directory of the checkpoint file; it is created when missing. Required

	CheckpointBytes int64         // about how many changed bytes in memory start a checkpoint; default 32 MiB. Of what is mainly new mail, which is appended, a sixty-fourth part is enough, at most ten times a second. Of the rest, as many as the file has, up to a quarter of MaxDirtyBytes, if that is more; but an eighth of that once nothing has come for 250 ms. More: fewer and larger ones
	MaxDirtyBytes   int64         // changed bytes in memory beyond which apply waits for the checkpoint; default 256 MiB
	CheckpointEvery time.Duration // longest time that a change stays in memory only; default 30 s
	ReplayBytes     int64         // log bytes that a restart may have to apply again, beyond which a checkpoint starts; default 256 MiB. The first one after a start comes after a thirty-second part
	MapBytes        int           // address space for the checkpoint file, which costs no memory; a file that outgrows it makes checkpoints wait for a snapshot that is being sent; default 16 GiB

	// OnEvents is called with what each batch did, in log order, from the apply
	// goroutine and without a lock. It must not block, nor keep the slice.
	OnEvents func([]Event)
	// Fatal is called once, from whatever goroutine found out, when the state
	// cannot be trusted or stored any more. From then on nothing is applied or
	// answered. The process must end; Fatal must not call Close.
	Fatal  func(error)
	Logger *slog.Logger // default: discard
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("fsm: Config.Dir is required")
	}
	def := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&c.CheckpointBytes, 32<<20)
	def(&c.MaxDirtyBytes, max(256<<20, 4*c.CheckpointBytes))
	def(&c.ReplayBytes, 256<<20)
	def((*int64)(&c.CheckpointEvery), int64(30*time.Second))
	if c.MapBytes <= 0 {
		c.MapBytes = 1 << 30
		if ^uint(0)>>32 != 0 {
			c.MapBytes <<= 4
		}
	}
	if c.MaxDirtyBytes < c.CheckpointBytes {
		return c, fmt.Errorf("fsm: Config.MaxDirtyBytes %d is less than CheckpointBytes %d", c.MaxDirtyBytes, c.CheckpointBytes)
	}
	if c.OnEvents == nil {
		c.OnEvents = func([]Event) {}
	}
	if c.Fatal == nil {
		c.Fatal = func(error) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// FSM is the state machine. One goroutine, Raft's, applies and restores; any
// number may ask. A batch is applied under the lock; a question holds it shared
// only to look into memory and to begin a transaction, and reads the file after
// letting go.
//
// It owns one goroutine, the checkpointer, which Close ends and waits for. Apply
// waits for it when too much has changed since the last checkpoint.
type FSM struct {
	cfg  Config
	path string // of the checkpoint

	mu sync.RWMutex
	st *state // guarded by mu, as is all of it

	revision atomic.Uint64 // see Revision

	applied watermark // index of the last entry applied
	stored  watermark // index of the last checkpoint
	once    sync.Once // for Fatal
	failed  chan struct{}
	err     error // why; set before failed is closed

	snaps *snapshots

	checkpoints sync.Mutex    // held while a checkpoint is written or the state replaced; taken before mu
	wake        chan struct{} // a checkpoint is wanted
	lull        *time.Timer   // wants one
	room        chan struct{} // a checkpoint is done
	stop        chan struct{} // closed by Close
	stopped     chan struct{} // closed by the checkpointer
	closing     atomic.Bool
	closed      chan struct{} // closed at the end of Close

	storing atomic.Int64 // bytes of memory that the last checkpoint stored in a second
	due     atomic.Int64 // changed bytes in memory that start the next one

	// Of the goroutine that applies.
	pace    pace
	entries []decoded // used again
	ops     []op      // used again
}

// checkpointName is the file's name in Config.Dir.
const checkpointName = "state.db"

// Open opens or creates the state in cfg.Dir and verifies all of it.
func Open(cfg Config) (*FSM, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	f := &FSM{
		cfg: cfg, path: filepath.Join(cfg.Dir, checkpointName),
		failed: make(chan struct{}), wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
		pace: newPace(cfg), stop: make(chan struct{}), stopped: make(chan struct{}), closed: make(chan struct{}),
	}
	f.lull = time.AfterFunc(lull, f.requestCheckpoint)
	f.lull.Stop()
	f.snaps = &snapshots{fsm: f}
	if err := prepare(cfg.Dir, f.path); err != nil {
		return nil, fmt.Errorf("fsm: %w", err)
	}
	c, err := verify(f.path)
	if err != nil {
		return nil, fmt.Errorf("fsm: %w", err)
	}
	db, err := openDB(f.path, cfg.MapBytes)
	if err != nil {
		return nil, fmt.Errorf("fsm: %w", err)
	}
	f.st = newState(db, c)
	f.st.revision = &f.revision
	f.applied.advance(c.index)
	f.stored.advance(c.index)
	f.setDue()
	go f.checkpointer()
	return f, nil
}

// prepare removes what a crash left behind and makes an empty checkpoint if
// there is none.
func prepare(dir, path string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	left, err := filepath.Glob(path + "*" + tempSuffix)
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := createDB(path); err != nil {
		return err
	}
	return syncFile(filepath.Dir(filepath.Clean(dir)))
}

// Close writes a last checkpoint, so that the next start is quick, and closes
// the database. Raft must have been shut down. Questions still under way are
// waited for; later ones have no answer.
func (f *FSM) Close() error {
	if f.closing.Swap(true) {
		<-f.closed
		return nil
	}
	defer close(f.closed)
	f.lull.Stop()
	close(f.stop)
	<-f.stopped
	err := f.checkpoint()
	f.snaps.close()
	f.once.Do(func() { f.err = ErrClosed; close(f.failed) })
	f.applied.fail(ErrClosed)
	f.stored.fail(ErrClosed)
	if errors.Is(err, ErrDamaged) {
		return err // bbolt may have been stopped by a panic, and hold its locks
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(err, f.st.db.Close())
}

// fail makes err the reason why nothing goes on.
func (f *FSM) fail(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.failed)
		f.applied.fail(err)
		f.stored.fail(err)
		f.cfg.Logger.Error("the state machine has failed", "error", err)
		f.cfg.Fatal(err)
	})
}

// Err is the error that Fatal was called with, ErrClosed after Close, or nil.
func (f *FSM) Err() error {
	select {
	case <-f.failed:
		return f.err
	default:
		return nil
	}
}

// usable is why the state must not be used: Err, or what Err is about to be. The
// lock is held.
func (f *FSM) usable() error {
	if err := f.Err(); err != nil {
		return err
	}
	return f.st.err
}

// Applied is the index of the last entry applied. Raft shows its FSM commands
// and configurations only: no-ops and barriers do not count.
func (f *FSM) Applied() uint64 { return f.applied.get() }

// WaitApplied waits until Applied is at least index.
func (f *FSM) WaitApplied(ctx context.Context, index uint64) error { return f.applied.wait(ctx, index) }

// Members lists the members by ID: ID, Server, Client and Peer.
func (f *FSM) Members() []parley.Member {
	f.mu.RLock()
	defer f.mu.RUnlock()
	members := make([]parley.Member, 0, len(f.st.members))
	for _, m := range f.st.members {
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b parley.Member) int { return strings.Compare(a.ID, b.ID) })
	return members
}

// Now is the state's time: the latest with which an applied entry was stamped.
func (f *FSM) Now() time.Time {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return time.Unix(0, f.st.now)
}

// Limits are the limits in force.
func (f *FSM) Limits() Limits {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.st.limits
}
