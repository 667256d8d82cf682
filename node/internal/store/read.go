package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

// LogEntry is what one entry of a log is recognised by.
type LogEntry struct {
	Index, Term uint64
	Sum         uint32 // CRC32C over index, term, type and data
}

// Read verifies the log of the node in a directory, which does not run, and
// calls f with each of its entries, in order.
func Read(path string, f func(LogEntry)) (err error) {
	if _, err := os.Stat(filepath.Join(path, identityFile)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s does not hold a node's data: it has no %s", path, identityFile)
	}
	d, err := lockDir(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.identify(); err != nil {
		return err
	}
	s, err := d.OpenStore(Config{Timeout: time.Minute, Fatal: func(error) {}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for i := s.log.first; i != 0 && i <= s.log.last; i++ {
		var e raft.Log
		if err := s.log.GetLog(i, &e); err != nil {
			return err
		}
		f(LogEntry{e.Index, e.Term, binary.BigEndian.Uint32(e.Extensions[1:])})
	}
	return nil
}
