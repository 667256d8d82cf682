package fsm

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A machine applies a history, and is now and then restarted, killed or
// replaced.
type machine struct {
	t   *testing.T
	rng *rand.Rand
	dir string
	f   *FSM
}

func (m *machine) open() {
	m.t.Helper()
	var err error
	m.f, err = Open(Config{
		Dir: m.dir, MapBytes: 64 << 20,
		CheckpointBytes: 1 + m.rng.Int64N(20_000), MaxDirtyBytes: 30_000,
		Fatal: func(err error) { m.t.Errorf("fatal: %v", err) },
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) close() {
	m.t.Helper()
	if err := m.f.Close(); err != nil {
		m.t.Fatal(err)
	}
}

// kill leaves the file as it is now, mid-way, and drops the memory.
func (m *machine) kill() {
	m.t.Helper()
	dir := m.t.TempDir()
	m.f.checkpoints.Lock() // a copy made while a checkpoint is written is no state of a disk: see TestPowerLoss
	data, err := os.ReadFile(m.f.path)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, checkpointName), data, 0o600)
	}
	m.f.checkpoints.Unlock()
	if err != nil {
		m.t.Fatal(err)
	}
	m.close()
	m.dir = dir
	m.open()
}

// move makes a new machine of a snapshot of this one, as Raft would.
func (m *machine) move() {
	m.t.Helper()
	old := m.f
	if err := old.Checkpoint(context.Background()); err != nil {
		m.t.Fatal(err)
	}
	list, err := old.Snapshots().List()
	if err != nil {
		m.t.Fatal(err)
	}
	if len(list) == 0 {
		return
	}
	m.dir = m.t.TempDir()
	m.open()
	if m.rng.IntN(2) == 0 && list[0].Index > 1 { // a follower that lags, instead of a new one
		m.close()
		m.dir = m.t.TempDir()
		m.open()
		m.f.Apply(entryOf(m.t, 1, epoch))
	}
	install(m.t, old, m.f)
	if err := old.Close(); err != nil {
		m.t.Fatal(err)
	}
}

// install sends a snapshot from one FSM to another the way Raft does.
func install(t testing.TB, from, to *FSM) {
	t.Helper()
	meta, r, err := from.Snapshots().Open(checkpointID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	id := receive(t, to, meta, r)
	_, r, err = to.Snapshots().Open(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Restore(r); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// receive writes a snapshot into a sink and closes it.
func receive(t testing.TB, to *FSM, meta *raft.SnapshotMeta, r io.Reader) (id string) {
	t.Helper()
	sink, err := to.Snapshots().Create(1, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(sink, r)
	if err != nil {
		t.Fatal(err)
	}
	if n != meta.Size {
		t.Fatalf("the snapshot has %d bytes and said %d", n, meta.Size)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	return sink.ID()
}

// TestAnySplit is the package's central test: whatever happens between the
// entries of a log, the replies and the final state are the same, and are those
// of the model.
func TestAnySplit(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(uint64(seed), 2))
		h := generate(t, rng, 300)

		plain := start(t, Config{})
		for i, l := range h.logs {
			h.check(t, i, plain.Apply(l))
		}
		if got := dump(t, plain); got != h.dump {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, got, h.dump)
		}
		want := mustDigest(t, plain)

		for run := range 3 {
			m := &machine{t: t, rng: rng, dir: t.TempDir()}
			m.open()
			m.run(h)
			if got := dump(t, m.f); got != h.dump {
				t.Fatalf("seed %d run %d: got\n%s\nwant\n%s", seed, run, got, h.dump)
			}
			if got := mustDigest(t, m.f); got != want {
				t.Fatalf("seed %d run %d: digest %s, want %s", seed, run, got, want)
			}
			m.close()
		}
	}
}

// run applies the history in random batches with random mishaps between them.
func (m *machine) run(h *history) {
	m.t.Helper()
	next := 0 // entry to apply next
	for next < len(h.logs) {
		n := min(1+m.rng.IntN(30), len(h.logs)-next)
		for i, r := range m.f.ApplyBatch(h.logs[next : next+n]) {
			if r == ErrApplied {
				continue // from before a restart
			}
			h.check(m.t, next+i, r)
		}
		next += n
		switch m.rng.IntN(12) {
		case 0:
			if err := m.f.Checkpoint(context.Background()); err != nil {
				m.t.Fatal(err)
			}
		case 1:
			m.close()
			m.open()
		case 2:
			m.kill()
		case 3:
			m.move()
		case 4:
			m.f.requestCheckpoint() // and go on meanwhile
			continue
		default:
			continue
		}
		// Raft applies again what comes after the checkpoint; a little more does
		// no harm.
		for next > 0 && h.logs[next-1].Index > m.f.Applied() {
			next--
		}
		next = max(0, next-m.rng.IntN(5))
	}
}

// TestPowerLoss makes disks as a power loss in the middle of a checkpoint can
// leave them: before the first sync any of the pages written, but not the meta
// page; after it all of them, and the meta page torn. The state must be that of
// before or after, whole.
func TestPowerLoss(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	h := generate(t, rng, 400)
	dir := t.TempDir()
	f := start(t, Config{Dir: dir, CheckpointEvery: time.Hour})
	digests := map[uint64]string{0: ""}
	read := func() []byte {
		data, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var before []byte
	for i := 0; i < len(h.logs); i += 20 {
		f.ApplyBatch(h.logs[i : i+20])
		index := f.Applied()
		digests[index] = mustDigest(t, f)
		after := read()
		if before != nil {
			for range 6 {
				tryDisk(t, tear(rng, before, after), digests)
			}
		}
		before = after
	}
}

// tear makes a disk between two others.
func tear(rng *rand.Rand, before, after []byte) []byte {
	const page, sector = 4096, 512
	disk := make([]byte, len(after))
	copy(disk, before)
	synced := rng.IntN(2) == 0
	for at := 2 * page; at < len(after); at += page {
		if synced || rng.IntN(2) == 0 {
			copy(disk[at:at+page], after[at:])
		}
	}
	if synced {
		for at := 0; at < 2*page; at += sector {
			if rng.IntN(3) > 0 {
				copy(disk[at:at+sector], after[at:])
			}
		}
		return disk
	}
	return disk[:max(len(before), rng.IntN(len(disk)+1)/page*page)] // it may not have grown
}

// tryDisk opens a disk and compares it with the state of its index.
func tryDisk(t *testing.T, disk []byte, digests map[uint64]string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, checkpointName), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(Config{Dir: dir, MapBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	index, sum, err := f.Digest()
	if err != nil || digests[index] != sum {
		t.Fatalf("digest at %d is %s, want %s (%v)", index, sum, digests[index], err)
	}
}
