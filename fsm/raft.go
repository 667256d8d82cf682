package fsm

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

var (
	_ raft.BatchingFSM        = (*FSM)(nil)
	_ raft.ConfigurationStore = (*FSM)(nil)
)

// ErrApplied is the response to an entry that is part of the state already: its
// results are not known any more.
var ErrApplied = errors.New("entry was applied before")

// One hold of the lock applies about so much, so that readers get their turn.
const (
	holdOps   = 2048
	holdBytes = 4 << 20
)

// Apply implements raft.FSM. The response is a []parley.Result, one for each
// command of the entry; or an error: ErrApplied, or why the FSM has failed.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM; the responses are those of Apply, and
// nil for configurations.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	for i := 0; i < len(logs); {
		n, err := f.applySome(logs[i:], responses[i:])
		if i += n; err != nil {
			for ; i < len(logs); i++ {
				responses[i] = err
			}
		}
	}
	return responses
}

// StoreConfiguration implements raft.ConfigurationStore.
func (f *FSM) StoreConfiguration(index uint64, c raft.Configuration) {
	f.ApplyBatch([]*raft.Log{{Index: index, Term: f.term(), Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}})
}

func (f *FSM) term() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.st.term
}

// decoded is an entry that can be applied: its commands are f.ops[from:to].
type decoded struct {
	log      *raft.Log
	stamp    int64
	from, to int
}

// applySome applies the first entries and returns how many. After an error, the
// FSM has failed and nothing more is applied.
func (f *FSM) applySome(logs []*raft.Log, responses []any) (n int, err error) {
	if err := f.waitForRoom(); err != nil {
		return 0, err
	}
	entries, decodeErr := f.decode(logs)
	f.mu.Lock()
	st := f.st
	for i, e := range entries {
		if responses[i], err = f.applyEntry(st, e); err != nil {
			break
		}
		n++
	}
	if st.endReading(); err == nil {
		err = st.err
	}
	events, index := st.events, st.index
	switch {
	case f.wanted(st.active):
		f.requestCheckpoint()
	case f.welcome(st.active):
		f.lull.Reset(lull)
	}
	f.mu.Unlock()

	if err == nil {
		err = decodeErr
	}
	if len(events) > 0 {
		f.cfg.OnEvents(events)
		clear(events)
		st.events = events[:0] // only this goroutine uses it
	}
	f.applied.advance(index)
	if err != nil {
		f.fail(err)
	}
	return n, err
}

// waitForRoom waits while too much has changed that is in no checkpoint, and a
// little before that.
func (f *FSM) waitForRoom() error {
	for {
		if err := f.Err(); err != nil {
			return err
		}
		f.mu.RLock()
		unstored := f.st.unstored()
		f.mu.RUnlock()
		pause := f.pace.pause(unstored, f.storing.Load())
		if unstored < f.cfg.MaxDirtyBytes && pause == 0 {
			return nil
		}
		f.requestCheckpoint()
		var paused <-chan time.Time // never
		if unstored < f.cfg.MaxDirtyBytes {
			timer := time.NewTimer(pause)
			defer timer.Stop()
			paused = timer.C
		}
		select {
		case <-f.room:
		case <-paused:
			return nil
		case <-f.failed:
		case <-f.stop:
			return ErrClosed
		}
	}
}

// decode takes apart as many entries as one hold of the lock may apply, but
// stops before one that cannot be decoded.
func (f *FSM) decode(logs []*raft.Log) (entries []decoded, err error) {
	clear(f.ops) // lest they keep entries in memory
	f.ops = f.ops[:0]
	clear(f.entries)
	entries = f.entries[:0]
	defer func() { f.entries = entries }()
	size := 0
	for _, l := range logs {
		if size += len(l.Data); len(entries) > 0 && (len(f.ops) >= holdOps || size > holdBytes) {
			break
		}
		e := decoded{log: l, from: len(f.ops)}
		if l.Type == raft.LogCommand {
			if e.stamp, f.ops, err = decodeEntry(l.Data, l.Index, f.ops); err != nil {
				return entries, fmt.Errorf("log entry %d of term %d: %w; this node must not go on: run the version of Parley that the other members run, or move the data directory away and let the node join again", l.Index, l.Term, err)
			}
		}
		e.to = len(f.ops)
		entries = append(entries, e)
	}
	return entries, nil
}

// applyEntry applies one entry. The lock is held.
func (f *FSM) applyEntry(st *state, e decoded) (response any, err error) {
	if e.log.Index <= st.index {
		return ErrApplied, nil
	}
	if e.log.Type == raft.LogConfiguration {
		st.confIndex, st.conf = e.log.Index, string(e.log.Data)
	} else {
		st.now = max(st.now, e.stamp)
		results := make([]parley.Result, e.to-e.from)
		for i := range results {
			results[i] = apply(st, &f.ops[e.from+i]).result()
			if st.err != nil {
				return nil, st.err
			}
		}
		response = results
	}
	st.index, st.term = e.log.Index, e.log.Term
	st.active.logged += int64(len(e.log.Data))
	return response, nil
}

// Snapshot implements raft.FSM. It copies nothing: see Snapshots.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.Err(); err != nil {
		return nil, err
	}
	return snapshot{}, nil
}

// snapshot makes a checkpoint when it is persisted.
type snapshot struct{}

func (snapshot) Persist(s raft.SnapshotSink) error {
	own, ok := s.(*sink)
	if !ok {
		return errors.New("fsm: Raft must be given the store that Snapshots returns")
	}
	return own.persist()
}

func (snapshot) Release() {}

// errOld is why a snapshot is not restored. See Restore.
var errOld = errors.New("fsm: the state is as new as the snapshot, or newer")

// Restore implements raft.FSM: it replaces the state by a snapshot, unless the
// state is as new or newer. Until the last moment an error leaves it as it was.
//
// An old snapshot that another member has sent is an error: Raft would otherwise
// go back to it and empty its log, and with it forget entries that this member
// has promised to keep. Such a message may have waited in a cut connection while
// its successor was installed, and Raft does not look (etcd's does).
func (f *FSM) Restore(r io.ReadCloser) error {
	for {
		if own, ok := r.(*receivedReader); ok {
			return f.adopt(own.snapshot)
		}
		w, ok := r.(raft.ReadCloserWrapper)
		if !ok {
			break
		}
		r = w.WrappedReadCloser()
	}
	in := f.snaps.receive()
	if _, err := io.Copy(in, r); err != nil {
		return errors.Join(fmt.Errorf("fsm: restore: %w", err), in.cancel())
	}
	got, err := in.finish(nil)
	if err != nil {
		return fmt.Errorf("fsm: restore: %w", err)
	}
	if err := f.adopt(got); !errors.Is(err, errOld) {
		return err
	}
	return nil
}

// adopt puts a received checkpoint in the place of the state's own. A crash
// leaves one or the other.
func (f *FSM) adopt(r *received) error {
	f.checkpoints.Lock()
	defer f.checkpoints.Unlock()
	if err := f.Err(); err != nil {
		return err
	}
	f.mu.RLock()
	old, applied := f.st, f.st.index
	f.mu.RUnlock()
	if r.contents.index <= applied {
		f.cfg.Logger.Info("snapshot ignored: the state is as new", "snapshot", r.contents.index, "applied", applied)
		return errors.Join(errOld, r.remove())
	}
	f.snaps.hold()
	defer f.snaps.release()
	if err := replace(r.path, f.path); err != nil { // nobody knows which of the two is there
		err = fmt.Errorf("fsm: restore: %w", err)
		f.fail(err)
		return err
	}
	db, err := openDB(f.path, f.cfg.MapBytes)
	if err != nil {
		f.fail(err)
		return err
	}
	f.mu.Lock()
	f.st = newState(db, r.contents)
	f.st.revision = &f.revision
	f.revision.Add(1)
	f.mu.Unlock()
	if err := old.db.Close(); err != nil { // waits for those who read it
		f.cfg.Logger.Warn("close the state before the snapshot", "error", err)
	}
	f.cfg.OnEvents([]Event{{Kind: EventReset}})
	f.applied.advance(r.contents.index)
	f.stored.advance(r.contents.index)
	f.setDue()
	return nil
}
