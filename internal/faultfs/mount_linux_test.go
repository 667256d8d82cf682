package faultfs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// TestMain is also the program that uses the disk, and the one that looks at what
// is left: a damaged database can crash who reads it.
func TestMain(m *testing.M) {
	path := os.Getenv("FAULTFS_TEST_DB")
	if path == "" {
		os.Exit(m.Run())
	}
	var err error
	if upTo := os.Getenv("FAULTFS_TEST_UPTO"); upTo != "" {
		err = holds(path, upTo)
	} else {
		err = program(path, os.Getenv("FAULTFS_TEST_NOSYNC") != "")
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// program puts one key after the other into a bbolt database, which maps its file
// into memory, and says so.
func program(path string, noSync bool) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: noSync})
	if err != nil {
		return err
	}
	for i := range 1 << 20 {
		err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			return b.Put(binary.BigEndian.AppendUint64(nil, uint64(i)), make([]byte, 100+i%1000))
		})
		if err == nil {
			err = db.View(func(tx *bbolt.Tx) error {
				if tx.Bucket([]byte("b")).Get(binary.BigEndian.AppendUint64(nil, uint64(i))) == nil {
					return errors.New("what was written cannot be read")
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
		fmt.Println(i)
	}
	return nil
}

func mount(t *testing.T, d *Disk) (*Mount, string) {
	t.Helper()
	dir := t.TempDir()
	m, err := Open(d, dir)
	if err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, dir
}

// A program that syncs has everything that it said it had, whenever the power is
// lost; one that does not loses some of it.
func TestDatabaseAndPowerLoss(t *testing.T) {
	const tries = 12
	if lost := databases(t, tries, false); lost > 0 {
		t.Errorf("a database that syncs lost something %d times of %d", lost, tries)
	}
	if lost := databases(t, tries, true); lost == 0 {
		t.Errorf("a database that does not sync lost nothing in %d tries", tries)
	}
}

func databases(t *testing.T, tries int, noSync bool) (lost int) {
	for i := range tries {
		rng := rand.New(rand.NewPCG(uint64(i), 7))
		said, d := killed(t, noSync, 10+rng.IntN(200))
		dir := t.TempDir()
		if err := d.PowerLoss(rng).CopyTo(dir); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "FAULTFS_TEST_DB="+filepath.Join(dir, "db"), "FAULTFS_TEST_UPTO="+strconv.Itoa(said))
		if out, err := cmd.CombinedOutput(); err != nil {
			why, _, _ := strings.Cut(string(out), "\n")
			t.Logf("try %d, sync %v: %v: %s", i, !noSync, err, why)
			lost++
		}
	}
	return lost
}

// killed runs the program until the disk freezes, and returns the last key that
// it said it had.
func killed(t *testing.T, noSync bool, changes int) (said int, d *Disk) {
	d = New()
	d.do(op{kind: opMake, node: root, name: "db", to: 2}) // making a database is not safe
	d.do(op{kind: opSync, node: root})
	m, dir := mount(t, d)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FAULTFS_TEST_DB="+filepath.Join(dir, "db"))
	if noSync {
		cmd.Env = append(cmd.Env, "FAULTFS_TEST_NOSYNC=1")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var froze <-chan struct{}
	for said = -1; lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(lines.Text())
		}
		if said = n; froze == nil {
			froze = m.FreezeAt(changes)
			go func() { // while the program waits for the disk, this waits for its output
				<-froze
				cmd.Process.Kill()
				m.Fail()
			}()
		}
	}
	_ = cmd.Wait() // killed
	return said, d
}

// holds wants a database to be in order and to have all keys up to one.
func holds(path, upTo string) error {
	last, err := strconv.Atoi(upTo)
	if err != nil {
		return err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	return db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err // the rest is never read, so the database stays open
		}
		for i := range last + 1 {
			if b := tx.Bucket([]byte("b")); b == nil || b.Get(binary.BigEndian.AppendUint64(nil, uint64(i))) == nil {
				return fmt.Errorf("key %d of %d is missing", i, last)
			}
		}
		return nil
	})
}

// The disk fails as it is told to.
func TestTrouble(t *testing.T) {
	m, dir := mount(t, New())
	path := filepath.Join(dir, "sub", "f")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		trouble Trouble
		do      func() error
	}{
		{Trouble{On: Writes, Err: syscall.ENOSPC}, func() error { _, err := f.WriteString("x"); return err }},
		{Trouble{On: Syncs, Err: syscall.EIO}, f.Sync},
		{Trouble{On: Names, Err: syscall.EIO}, func() error { return os.Rename(path, path+"2") }},
	} {
		m.Set(c.trouble)
		if err := c.do(); !errors.Is(err, c.trouble.Err) {
			t.Errorf("%v: want %v", err, c.trouble.Err)
		}
		m.Set(Trouble{})
		if err := c.do(); err != nil {
			t.Error(err)
		}
	}
	m.Set(Trouble{On: Syncs, Delay: 50 * time.Millisecond})
	if began := time.Now(); f.Sync() != nil || time.Since(began) < 50*time.Millisecond {
		t.Errorf("a slow sync took %v", time.Since(began))
	}
	m.Set(Trouble{})
	m.Freeze()
	done := make(chan error)
	go func() { _, err := f.WriteString("y"); done <- err }()
	select {
	case err := <-done:
		t.Errorf("a frozen disk has written: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	m.Thaw()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if names := list(t, filepath.Join(dir, "sub")); names != "f2" {
		t.Errorf("names: %s", names)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a renamed file: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "sub")); err != nil || list(t, dir) != "" {
		t.Errorf("%v; left: %s", err, list(t, dir))
	}
}

func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}
