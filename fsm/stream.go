package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"go.etcd.io/bbolt"
)

// A snapshot on its way between members is
//
//	"PARLEYCK" | version u32 | size u64 | the checkpoint's file, size bytes | crc32c u32
//
// big-endian; the checksum covers all before it.
const (
	streamMagic   = "PARLEYCK"
	streamVersion = 1
	streamHeader  = 20
	streamTrailer = 4
)

func streamSize(tx *bbolt.Tx) int64 { return streamHeader + tx.Size() + streamTrailer }

// stream sends the checkpoint as it is in a transaction. It owns a goroutine,
// which Close and abort end and wait for; so does reading to the end.
type stream struct {
	*io.PipeReader
	snaps *snapshots
	out   *io.PipeWriter
	done  chan struct{}
}

var errAborted = errors.New("fsm: the snapshot was replaced while it was being read")

// newStream takes over the transaction.
func newStream(s *snapshots, tx *bbolt.Tx) *stream {
	st := &stream{snaps: s, done: make(chan struct{})}
	st.PipeReader, st.out = io.Pipe()
	go func() {
		defer close(st.done)
		err := guard(func() error { return st.send(tx) })
		st.out.CloseWithError(errors.Join(err, tx.Rollback())) // nil: EOF
	}()
	return st
}

func (st *stream) send(tx *bbolt.Tx) error {
	sum := crc32.New(castagnoli)
	w := io.MultiWriter(st.out, sum)
	head := binary.BigEndian.AppendUint32([]byte(streamMagic), streamVersion)
	head = binary.BigEndian.AppendUint64(head, uint64(tx.Size()))
	if _, err := w.Write(head); err != nil {
		return err
	}
	if _, err := tx.WriteTo(w); err != nil {
		return err
	}
	_, err := st.out.Write(binary.BigEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

// Close ends the stream.
func (st *stream) Close() error {
	err := st.PipeReader.Close()
	<-st.done
	st.snaps.forget(st)
	return err
}

// abort ends the stream, and its reader gets an error.
func (st *stream) abort() {
	st.out.CloseWithError(errAborted)
	<-st.done
}

// receiver writes a snapshot that arrives to a temporary file.
type receiver struct {
	snaps *snapshots
	id    string
	path  string
	file  *os.File
	sum   hash.Hash32
	size  int64  // bytes received
	head  []byte // the header, as far as it has come
	left  uint64 // bytes of the file still to come
	tail  []byte // the trailer, as far as it has come
}

// receive makes a receiver.
func (s *snapshots) receive() *receiver {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	return &receiver{
		snaps: s, id: fmt.Sprintf("received-%d", s.count), sum: crc32.New(castagnoli),
		path: fmt.Sprintf("%s.%d%s", s.fsm.path, s.count, tempSuffix),
	}
}

// Write takes the next bytes.
func (r *receiver) Write(p []byte) (int, error) {
	n := len(p)
	r.size += int64(n)
	if len(r.head) < streamHeader {
		k := min(streamHeader-len(r.head), len(p))
		r.head, p = append(r.head, p[:k]...), p[k:]
		if len(r.head) == streamHeader {
			if err := r.begin(); err != nil {
				return 0, err
			}
		}
	}
	if k := min(r.left, uint64(len(p))); k > 0 {
		r.sum.Write(p[:k])
		if _, err := r.file.Write(p[:k]); err != nil {
			return 0, err
		}
		r.left, p = r.left-k, p[k:]
	}
	if len(r.tail)+len(p) > streamTrailer {
		return 0, damaged("a snapshot that was received is longer than it says")
	}
	r.tail = append(r.tail, p...)
	return n, nil
}

// begin looks at the header and opens the file.
func (r *receiver) begin() (err error) {
	if string(r.head[:8]) != streamMagic || binary.BigEndian.Uint32(r.head[8:]) != streamVersion {
		return fmt.Errorf("fsm: what was received is no snapshot of version %d", streamVersion)
	}
	r.left = binary.BigEndian.Uint64(r.head[12:])
	r.sum.Write(r.head)
	r.file, err = os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	return err
}

// finish syncs and verifies the file. meta, if not nil, replaces what the file
// says about where in the log it stands: a snapshot that an operator brings back
// gets a new place.
func (r *receiver) finish(meta *raftMeta) (*received, error) {
	got, err := r.check(meta)
	if err != nil {
		return nil, errors.Join(err, r.cancel())
	}
	s := r.snaps
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.received != nil {
		if err := s.received.remove(); err != nil {
			return nil, err
		}
	}
	s.received = got
	return got, nil
}

func (r *receiver) check(meta *raftMeta) (*received, error) {
	if r.file == nil || r.left > 0 || len(r.tail) < streamTrailer {
		return nil, errors.New("fsm: the snapshot that was received is incomplete")
	}
	if binary.BigEndian.Uint32(r.tail) != r.sum.Sum32() {
		return nil, errors.New("fsm: the snapshot that was received was damaged on its way: the checksum does not match")
	}
	if err := r.file.Sync(); err != nil {
		return nil, err
	}
	c, err := verify(r.path)
	if err != nil {
		return nil, err
	}
	if meta != nil && *meta != c.raftMeta {
		if err := rewriteMeta(r.path, *meta); err != nil {
			return nil, err
		}
		c.raftMeta = *meta
	}
	return &received{id: r.id, path: r.path, size: r.size, contents: c}, r.file.Close()
}

// rewriteMeta gives a checkpoint file another place in the log.
func rewriteMeta(path string, m raftMeta) error {
	db, err := openDB(path, 0)
	if err != nil {
		return err
	}
	err = guard(func() error {
		return db.Update(func(tx *bbolt.Tx) error {
			w := writer{tx: tx}
			w.put(tx.Bucket(bucketMeta.name), bucketMeta, keyRaft, m.append(w.value()))
			return w.err
		})
	})
	return errors.Join(err, db.Close())
}

// cancel removes the file.
func (r *receiver) cancel() error {
	if r.file == nil {
		return nil
	}
	r.file.Close() // perhaps a second time
	return os.Remove(r.path)
}

// received is a verified snapshot in a temporary file.
type received struct {
	id       string
	path     string
	size     int64
	contents *contents
}

func (r *received) remove() error {
	if err := os.Remove(r.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// receivedReader stands for a received snapshot between Open and Restore. The
// file is used as it is; nobody reads it again.
type receivedReader struct{ snapshot *received }

// Read fails: the snapshot can only be restored.
func (*receivedReader) Read([]byte) (int, error) {
	return 0, errors.New("fsm: a snapshot that was received can only be restored")
}

// Close does nothing.
func (*receivedReader) Close() error { return nil }
