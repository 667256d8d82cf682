package fsm

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// Snapshots is the store that Raft must be given, together with
// NoSnapshotRestoreOnStart. The one snapshot in it is the checkpoint, wherever
// that has got to.
func (f *FSM) Snapshots() raft.SnapshotStore { return f.snaps }

// snapshots is the checkpoint as Raft's snapshot store, and the place where
// snapshots of other members arrive:
//
//   - To take a snapshot is to make sure that a checkpoint reaches its index.
//   - To open the snapshot is to stream the checkpoint's file from a read
//     transaction, while further checkpoints are written.
//   - A snapshot that is received (first Write into a sink) goes to a temporary
//     file, is synced and verified when its sink is closed, and takes the
//     checkpoint's place when Raft calls Restore.
type snapshots struct {
	fsm *FSM

	mu       sync.Mutex // taken before fsm.mu
	streams  map[*stream]struct{}
	received *received // the last one, until it is restored or the next one comes
	count    int       // of snapshots received
	closed   bool
}

var _ raft.SnapshotStore = (*snapshots)(nil)

// The checkpoint's own id in the store.
const checkpointID = "checkpoint"

func (s *snapshots) meta(m raftMeta, id string, size int64) *raft.SnapshotMeta {
	meta := &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: id, Index: m.index, Term: m.term,
		ConfigurationIndex: m.confIndex, Size: size,
	}
	if m.conf != "" {
		meta.Configuration = raft.DecodeConfiguration([]byte(m.conf))
	}
	return meta
}

// List implements raft.SnapshotStore: the checkpoint, or nothing at a new node.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	tx, m, err := s.begin()
	if err != nil {
		return nil, err
	}
	size := streamSize(tx)
	if err := tx.Rollback(); err != nil || m.index == 0 {
		return nil, err
	}
	return []*raft.SnapshotMeta{s.meta(m, checkpointID, size)}, nil
}

// begin begins a transaction on the checkpoint and reads where it stands.
func (s *snapshots) begin() (tx *bbolt.Tx, m raftMeta, err error) {
	tx, err = s.fsm.begin(func(*state) {})
	if err != nil {
		return nil, m, err
	}
	err = guard(func() error {
		m, err = txRaftMeta(tx)
		return err
	})
	if err != nil {
		s.fsm.fail(err)
		return nil, m, errors.Join(err, tx.Rollback())
	}
	return tx, m, nil
}

func txRaftMeta(tx *bbolt.Tx) (m raftMeta, err error) {
	payload, err := bucketMeta.open(keyRaft, tx.Bucket(bucketMeta.name).Get(keyRaft))
	if err != nil {
		return m, err
	}
	m, ok := readRaftMeta(payload)
	if !ok {
		return m, bucketMeta.malformed(keyRaft)
	}
	return m, nil
}

// Open implements raft.SnapshotStore. The checkpoint may be newer than it was
// when it was listed; the metadata are those of what is read.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, nil, ErrClosed
	case s.received != nil && s.received.id == id:
		r := s.received
		return s.meta(r.contents.raftMeta, id, r.size), &receivedReader{r}, nil
	case id != checkpointID:
		return nil, nil, fmt.Errorf("fsm: no snapshot %q", id)
	}
	tx, m, err := s.begin()
	if err != nil {
		return nil, nil, err
	}
	st := newStream(s, tx)
	if s.streams == nil {
		s.streams = make(map[*stream]struct{})
	}
	s.streams[st] = struct{}{}
	return s.meta(m, checkpointID, streamSize(tx)), st, nil
}

// hold ends all streams and lets nobody begin one until release.
func (s *snapshots) hold() {
	s.mu.Lock()
	for st := range s.streams {
		st.abort()
	}
	s.streams = nil
}

func (s *snapshots) release() {
	s.received = nil
	s.mu.Unlock()
}

func (s *snapshots) close() {
	s.hold()
	s.closed = true
	s.release()
}

func (s *snapshots) forget(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
}

// Create implements raft.SnapshotStore. Whether the snapshot is taken here or
// comes from elsewhere shows when it is persisted or written to.
func (s *snapshots) Create(_ raft.SnapshotVersion, index, term uint64, conf raft.Configuration,
	confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if err := s.fsm.Err(); err != nil {
		return nil, err
	}
	return &sink{snaps: s, id: checkpointID, meta: raftMeta{
		index: index, term: term, confIndex: confIndex, conf: string(raft.EncodeConfiguration(conf)),
	}}, nil
}

// sink is a snapshot in the making. Raft's calls come one after the other.
type sink struct {
	snaps *snapshots
	meta  raftMeta
	id    string
	in    *receiver // nil: nothing was written
}

// ID implements raft.SnapshotSink.
func (s *sink) ID() string { return s.id }

// persist makes a checkpoint that reaches the snapshot's index.
func (s *sink) persist() error {
	f := s.snaps.fsm
	if f.raise(s.meta) {
		return f.checkpoint()
	}
	return nil
}

// raise takes over what Raft says about the state at m.index, all of whose
// commands have been applied: the entries up to there which it does not show
// change nothing, and its configuration is at least as new, unless there is one
// from after m.index. It reports whether the checkpoint does not say so yet.
//
// Without this, Raft would truncate the log up to the snapshot's index, and find
// at its next start that the checkpoint ends before the log begins.
func (f *FSM) raise(m raftMeta) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.st
	if st.confIndex <= m.index {
		st.confIndex, st.conf = m.confIndex, m.conf
	}
	if st.index < m.index {
		st.index, st.term = m.index, m.term
		f.applied.advance(m.index)
	}
	was := &st.older.raftMeta
	return !st.older.stored || was.index < m.index || (was.confIndex <= m.index && was.conf != st.conf)
}

// Write implements raft.SnapshotSink: a snapshot arrives from elsewhere.
func (s *sink) Write(p []byte) (int, error) {
	if s.in == nil {
		s.in = s.snaps.receive()
		s.id = s.in.id
	}
	return s.in.Write(p)
}

// Close implements raft.SnapshotSink. What was received is complete, synced and
// verified when it returns nil.
func (s *sink) Close() error {
	if s.in == nil {
		return nil
	}
	_, err := s.in.finish(&s.meta)
	return err
}

// Cancel implements raft.SnapshotSink.
func (s *sink) Cancel() error {
	if s.in == nil {
		return nil
	}
	return s.in.cancel()
}
