package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

// A conversion appends so much at a time.
const (
	convertEntries = 256
	convertBytes   = 4 << 20
)

// Converted says what a conversion has found.
type Converted struct {
	Already     bool   // the log was of that kind
	First, Last uint64 // entries; 0: none
}

// Convert moves the log, term and vote of the node in a directory, which does
// not run, to the other kind of store. The new one is written next to the old
// one and compared with it; then the identity, replaced at once, says which one
// counts, and the old one is removed. Nothing else in the directory changes.
func Convert(path string, to Kind) (c Converted, err error) {
	if _, err := os.Stat(filepath.Join(path, identityFile)); errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("%s does not hold a node's data: it has no %s", path, identityFile)
	}
	d, err := lockDir(path)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.identify(); err != nil {
		return c, err
	}
	old := d.logPath(to.other())
	if d.kind == to {
		c.Already = true
		return c, removeStore(old) // a conversion was interrupted before it came to that
	}
	if c, err = d.convert(to); err != nil {
		return c, err
	}
	return c, removeStore(old)
}

func (d *Dir) convert(to Kind) (c Converted, err error) {
	cfg := Config{Timeout: time.Minute, Fatal: func(error) {}}
	from, err := d.open(cfg)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	c.First, c.Last = from.log.first, from.log.last

	path := d.logPath(to)
	cfg.Kind, cfg.Path, cfg.Fresh = to, path+".new", true
	if err := removeStore(cfg.Path); err != nil {
		return c, err
	}
	if err := fill(cfg, from); err != nil {
		return c, err
	}
	cfg.Fresh = false
	if err := compare(cfg, from); err != nil {
		return c, err
	}
	if err := removeStore(path); err != nil { // of an interrupted conversion: the identity does not name it
		return c, err
	}
	if to == Bolt {
		if err := renameSynced(stagePath(cfg.Path), stagePath(path)); err != nil {
			return c, err
		}
	}
	if err := renameSynced(cfg.Path, path); err != nil {
		return c, err
	}
	return c, d.writeIdentity(to)
}

// fill makes a store with what another one holds.
func fill(cfg Config, from *Store) (err error) {
	to, err := Open(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	for _, key := range []string{keyTerm, keyVote} {
		value, err := from.vote.read(key)
		if errors.Is(err, errNotFound) {
			continue
		}
		if err == nil {
			err = to.vote.write(key, value)
		}
		if err != nil {
			return err
		}
	}
	var batch []*raft.Log
	size := 0
	for i := from.log.first; i != 0 && i <= from.log.last; i++ {
		e := new(raft.Log)
		if err := from.log.GetLog(i, e); err != nil {
			return err
		}
		batch = append(batch, e)
		if size += len(e.Data); len(batch) == convertEntries || size >= convertBytes || i == from.log.last {
			if err := to.log.StoreLogs(batch); err != nil {
				return err
			}
			batch, size = batch[:0], 0
		}
	}
	return nil
}

// compare opens a store, which verifies it, and compares it with another one.
func compare(cfg Config, from *Store) (err error) {
	to, err := Open(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if to.log.first != from.log.first || to.log.last != from.log.last {
		return fmt.Errorf("the new log is %d to %d, the old one %d to %d", to.log.first, to.log.last, from.log.first, from.log.last)
	}
	for _, key := range []string{keyTerm, keyVote} {
		a, errA := from.vote.read(key)
		b, errB := to.vote.read(key)
		if !bytes.Equal(a, b) || errors.Is(errA, errNotFound) != errors.Is(errB, errNotFound) {
			return fmt.Errorf("%s differs in the new store", key)
		}
	}
	for i := from.log.first; i != 0 && i <= from.log.last; i++ {
		var a, b raft.Log
		if err := errors.Join(from.log.GetLog(i, &a), to.log.GetLog(i, &b)); err != nil {
			return err
		}
		if !same(&a, &b) {
			return fmt.Errorf("log entry %d differs in the new store", i)
		}
	}
	return nil
}
