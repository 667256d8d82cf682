package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
)

// The version of the data directory's layout:
//
//	node.json         format, node name and server id; written last, so that a
//	                  directory without it has never been part of a cluster
//	lock              locked while a process uses the directory
//	group-0/raft.db         Raft's log, term and vote of group 0, the only one so far
//	group-0/raft.db.stage   the newest entries of the log, see stage
//	group-0/state/          the state machine's checkpoint
//
// With the log in segments, which node.json says:
//
//	group-0/raft-wal/raft.db   term, vote and the list of segments
//	group-0/raft-wal/*.wal     the segments
const (
	formatBolt   = 1 // all of the log is in raft.db
	formatWAL    = 2 // programs that do not know of segments must not touch it
	formatStaged = 3 // nor those that do not know of the staging file
)

const (
	identityFile = "node.json"
	groupDir     = "group-0"
)

// Dir is a node's data directory, locked against other processes.
type Dir struct {
	path string
	lock *os.File
	kind Kind // of the log
	name string

	format int // 0: fresh

	Server string // server id (UUID) that Raft knows this data by; made on first use
	Fresh  bool   // there was no identity yet: nothing in the directory was ever promised to anybody
}

type identity struct {
	Format   int    `json:"format"`
	Name     string `json:"name"`
	Server   string `json:"server"`
	Log      Kind   `json:"log,omitempty"` // where the log is, as of formatWAL
	Checksum string `json:"checksum"`      // CRC32C of the others
}

func (id identity) sum() string {
	s := fmt.Sprintf("%d %q %q", id.Format, id.Name, id.Server)
	if id.Format > formatBolt {
		s += fmt.Sprintf(" %q", id.Log)
	}
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(s), castagnoli))
}

// OpenDir locks the data directory of the named node, which is created when
// missing, and reads its identity. The log must be of that kind.
func OpenDir(path, name string, kind Kind) (*Dir, error) {
	d, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	if err := d.identify(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	switch {
	case d.Fresh:
		d.Server, d.name, d.kind = uuid.NewString(), name, kind
	case d.name != name:
		err = fmt.Errorf("data directory %s belongs to node %q, not %q", path, d.name, name)
	case d.kind != kind:
		err = fmt.Errorf("data directory %s has its log in the %s store, not in the %s store: start the node with --log-store %s, or convert the log first, with: parley convert-log --data %s --to %s",
			path, d.kind, kind, d.kind, path, kind)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func lockDir(path string) (*Dir, error) {
	for _, p := range []string{path, filepath.Join(path, groupDir)} {
		if err := makeDir(p); err != nil {
			return nil, err
		}
	}
	lock, err := lockFile(filepath.Join(path, "lock"))
	if err != nil {
		return nil, fmt.Errorf("data directory %s is in use by another process: %w", path, err)
	}
	return &Dir{path: path, lock: lock}, nil
}

// identify reads the identity, or says that the directory is fresh.
func (d *Dir) identify() error {
	path := filepath.Join(d.path, identityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		d.Fresh = true
		return nil
	}
	if err != nil {
		return err
	}
	var id identity
	switch err := json.Unmarshal(b, &id); {
	case err != nil:
		return fmt.Errorf("%w: %s: %v", ErrDamaged, path, err)
	case id.Format > formatStaged:
		return fmt.Errorf("%s has format %d, this program knows formats up to %d: use a newer one", path, id.Format, formatStaged)
	case id.Checksum != id.sum() || id.Format < formatBolt || id.Format == formatBolt && id.Log != "":
		return fmt.Errorf("%w: %s: checksum %s does not match", ErrDamaged, path, id.Checksum)
	}
	d.Server, d.name, d.kind, d.format = id.Server, id.Name, id.Log, id.Format
	if id.Format == formatBolt {
		d.kind = Bolt
	}
	if !d.kind.Valid() {
		return fmt.Errorf("%s has its log in a store %q, which this program does not know: use a newer one", path, id.Log)
	}
	return nil
}

// Commit writes the identity of a fresh directory. From then on everything in
// the directory has to be there, or it is damaged.
func (d *Dir) Commit() error {
	if !d.Fresh {
		return nil
	}
	if err := syncDir(filepath.Join(d.path, groupDir)); err != nil { // others have made directories in it
		return err
	}
	return d.writeIdentity(d.kind)
}

// writeIdentity replaces the identity, which says where the log is, at once.
func (d *Dir) writeIdentity(kind Kind) error {
	id := identity{Format: formatStaged, Name: d.name, Server: d.Server, Log: kind}
	if kind == WAL {
		id.Format = formatWAL
	}
	id.Checksum = id.sum()
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(d.path, identityFile)
	if err := writeSynced(path+".new", append(b, '\n')); err != nil {
		return err
	}
	return renameSynced(path+".new", path)
}

// OpenStore opens the log, term and vote. It fills in which and where in cfg.
func (d *Dir) OpenStore(cfg Config) (*Store, error) {
	if d.Fresh {
		if err := d.clearOther(cfg); err != nil {
			return nil, err
		}
	}
	return d.open(cfg)
}

// open opens the store. A directory from before the staging file says from then
// on that it has one.
func (d *Dir) open(cfg Config) (*Store, error) {
	if d.format == formatBolt {
		if err := d.writeIdentity(Bolt); err != nil {
			return nil, err
		}
		d.format = formatStaged
	}
	return Open(d.in(cfg))
}

func (d *Dir) in(cfg Config) Config {
	cfg.Kind, cfg.Path, cfg.Fresh = d.kind, d.logPath(d.kind), d.Fresh
	return cfg
}

// clearOther removes what the first start has left that was to use the other
// kind of log and did not come to an end. If that kind holds anything, the
// identity has been lost.
func (d *Dir) clearOther(cfg Config) error {
	other := d.kind.other()
	cfg.Kind, cfg.Path, cfg.Fresh = other, d.logPath(other), true
	if _, err := os.Stat(cfg.Path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s, err := Open(cfg)
	if err != nil {
		return err
	}
	return errors.Join(s.Close(), removeStore(cfg.Path))
}

// removeStore removes the log of a path, if it is there.
func removeStore(path string) error {
	if err := errors.Join(os.RemoveAll(path), os.RemoveAll(stagePath(path))); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func (k Kind) other() Kind {
	if k == WAL {
		return Bolt
	}
	return WAL
}

// logPath is the file, or the directory, of Raft's log of a kind.
func (d *Dir) logPath(kind Kind) string {
	name := "raft.db"
	if kind == WAL {
		name = "raft-wal"
	}
	return filepath.Join(d.path, groupDir, name)
}

// StatePath is the directory of the state machine. In a directory that has an
// identity it must be there and hold something.
func (d *Dir) StatePath() (string, error) {
	path := filepath.Join(d.path, groupDir, "state")
	if d.Fresh {
		return path, nil
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return "", fmt.Errorf("%w: %s is missing or empty", ErrDamaged, path)
	}
	return path, err
}

// Close unlocks the directory.
func (d *Dir) Close() error { return d.lock.Close() }

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// renameSynced renames within a directory and syncs the directory.
func renameSynced(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// makeDir makes a directory, and those that it is in as far as they are missing.
// Until the directory that one is made in has been synced, a power loss may take it
// away again, with everything that was synced in it.
func makeDir(path string) error {
	parent := filepath.Dir(path)
	switch _, err := os.Stat(path); {
	case err == nil:
		_ = syncDir(parent) // whoever made it may not have come so far; others' directories may not be ours to open
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
