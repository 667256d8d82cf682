package lab

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"
)

// A copy of a file that is being written to has everything that had been
// committed when it was begun, and is whole.
func TestImagesAmidWrites(t *testing.T) {
	dir := t.TempDir()
	db, err := bbolt.Open(filepath.Join(dir, "raft.db"), 0o600, &bbolt.Options{NoFreelistSync: true, InitialMmapSize: 1 << 24})
	if err != nil {
		t.Fatal(err)
	}
	var committed atomic.Uint64
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := uint64(1); ; n++ {
			err := db.Update(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists([]byte("b"))
				if err != nil {
					return err
				}
				for i := range 20 {
					if err := b.Put(fmt.Append(nil, (n+uint64(i)*37)%500), make([]byte, 200)); err != nil {
						return err
					}
				}
				return b.Put([]byte("n"), binary.BigEndian.AppendUint64(nil, n))
			})
			if err != nil {
				t.Error(err)
				return
			}
			committed.Store(n)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	c := copies{rng: rand.New(rand.NewPCG(1, 1)), tries: make(map[string]int)}
	made := 0
	for i := range 200 {
		before := committed.Load()
		to := filepath.Join(t.TempDir(), fmt.Sprint(i))
		now, err := c.take(dir)
		if err != nil {
			continue // it was written to all the time
		}
		if err := now.write(to); err != nil {
			t.Fatal(err)
		}
		made++
		if n := whole(t, filepath.Join(to, "raft.db")); n < before || n > committed.Load()+1 {
			t.Errorf("transaction %d in the copy; %d before it, %d after it", n, before, committed.Load())
		}
	}
	close(stop)
	<-ended
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d copies, %v", made, c.tries)
	if made == 0 {
		t.Error("no copy was made")
	}
}

// whole verifies a copy and returns the number of its last transaction.
func whole(t *testing.T, path string) (n uint64) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		if b := tx.Bucket([]byte("b")); b != nil {
			n = binary.BigEndian.Uint64(b.Get([]byte("n")))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return n
}
