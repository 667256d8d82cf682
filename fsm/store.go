package fsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// ErrDamaged is in the chain of every error that says that stored bytes are not
// what was written.
var ErrDamaged = errors.New("stored state is damaged")

// advice is what to do about ErrDamaged.
const advice = "this node must not go on: stop it, check its disk, move its data directory away and let it join again as a new member; the other members have the data"

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s; %s", ErrDamaged, fmt.Sprintf(format, args...), advice)
}

// guard runs fn, which uses bbolt. bbolt trusts its file: it panics, or reads
// outside its memory map, where the file is damaged.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w\n%s", damaged("%v", p), debug.Stack())
		}
	}()
	return fn()
}

// openDB opens the checkpoint for writing. The file has been verified.
func openDB(path string, mapBytes int) (db *bbolt.DB, err error) {
	err = guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:         time.Second, // another process has it
			NoFreelistSync:  true,        // cheaper commits; the list is found again by scanning
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: mapBytes,
			NoStatistics:    true,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// createDB makes an empty checkpoint, by temporary file and rename, so that a
// crash leaves all of it or nothing.
func createDB(path string) error {
	tmp := path + tempSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := openDB(tmp, 0)
	if err != nil {
		return err
	}
	empty := newGeneration(0)
	empty.limits = firstLimits()
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucket(b.name); err != nil {
				return err
			}
		}
		return empty.write(tx)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return replace(tmp, path)
}

// tempSuffix marks files that a crash may leave behind.
const tempSuffix = ".tmp"

// replace renames a file into place, durably.
func replace(tmp, path string) error {
	if err := syncFile(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncFile(filepath.Dir(path))
}

// syncFile fsyncs a file or directory.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// txMessage reads a message that must be there, through a cursor on the mail. The
// text is the transaction's own memory.
func txMessage(mail *bbolt.Cursor, pos uint64) (h head, text []byte, err error) {
	var buf [8]byte
	key := mailKey(buf[:0], pos)
	k, value := mail.Seek(key)
	if string(k) != string(key) {
		return head{}, nil, damaged("bucket mail, key %x: the message is missing", key)
	}
	payload, err := bucketMail.open(key, value)
	if err != nil {
		return head{}, nil, err
	}
	h, text, ok := readHead(payload)
	if !ok {
		return head{}, nil, bucketMail.malformed(key)
	}
	return h, text, nil
}
