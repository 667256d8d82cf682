package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nodeDir makes a data directory with a log of 100 to 600, or of nothing.
func nodeDir(t *testing.T, kind Kind, empty bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	d, err := OpenDir(path, "n1", kind)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.OpenStore(Config{Timeout: 5 * time.Second, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	if !empty {
		vote(t, s, 40, "n2")
		appendEntries(t, s, 100, 600)
	}
	if err := os.MkdirAll(filepath.Join(path, groupDir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, groupDir, "state", "x"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Commit(), s.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkNode opens a data directory and checks that it holds what nodeDir made.
func checkNode(t *testing.T, path string, kind Kind, empty bool) {
	t.Helper()
	d, err := OpenDir(path, "n1", kind)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Fresh || d.Server == "" {
		t.Error("the identity is gone")
	}
	if _, err := d.StatePath(); err != nil {
		t.Error(err)
	}
	s, err := d.OpenStore(Config{Timeout: 5 * time.Second, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if empty {
		ends(t, s, 0, 0)
		return
	}
	ends(t, s, 100, 600)
	term, err := s.vote.GetUint64([]byte(keyVoteTerm))
	cand, err2 := s.vote.Get([]byte(keyVoteCand))
	if err != nil || err2 != nil || term != 40 || string(cand) != "n2" {
		t.Errorf("vote: %d %q %v %v", term, cand, err, err2)
	}
	if _, err := os.Stat(d.logPath(kind.other())); !os.IsNotExist(err) {
		t.Errorf("the other log: %v, want it gone", err)
	}
}

func TestConvert(t *testing.T) {
	for _, empty := range []bool{false, true} {
		path := nodeDir(t, Bolt, empty)
		before, _ := os.ReadFile(filepath.Join(path, identityFile))
		for _, to := range []Kind{WAL, Bolt, WAL, Bolt} {
			c, err := Convert(path, to)
			if err != nil || c.Already || !empty && (c.First != 100 || c.Last != 600) {
				t.Fatalf("to %s: %+v %v", to, c, err)
			}
			checkNode(t, path, to, empty)
			if c, err := Convert(path, to); err != nil || !c.Already {
				t.Errorf("again to %s: %+v %v", to, c, err)
			}
		}
		if after, _ := os.ReadFile(filepath.Join(path, identityFile)); string(after) != string(before) {
			t.Errorf("identity %s, was %s", after, before)
		}
	}
}

// A directory whose log is in the other store is refused, with advice.
func TestOtherKindIsRefused(t *testing.T) {
	for _, kind := range []Kind{Bolt, WAL} {
		path := nodeDir(t, kind, false)
		_, err := OpenDir(path, "n1", kind.other())
		if err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "convert-log --data "+path+" --to "+string(kind.other())) ||
			!strings.Contains(err.Error(), "--log-store "+string(kind)) {
			t.Errorf("%v", err)
		}
		checkNode(t, path, kind, false)
	}
}

// What an interrupted conversion leaves is in nobody's way.
func TestInterruptedConversion(t *testing.T) {
	for _, kind := range []Kind{Bolt, WAL} {
		path := nodeDir(t, kind, false)
		d := &Dir{path: path}
		other := d.logPath(kind.other())
		for _, leftover := range []string{other, other + ".new"} {
			if err := os.MkdirAll(filepath.Join(leftover, "half"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		d, err := OpenDir(path, "n1", kind)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := d.OpenStore(Config{Timeout: 5 * time.Second}); err != nil {
			t.Error(err)
		} else {
			s.Close()
		}
		if _, err := Convert(path, kind.other()); err == nil {
			t.Error("converted while the node runs")
		}
		d.Close()
		if _, err := Convert(path, kind.other()); err != nil {
			t.Fatal(err)
		}
		checkNode(t, path, kind.other(), false)
	}
}

// Nothing is converted that is not whole, and it stays what it is.
func TestConversionOfDamagedLog(t *testing.T) {
	path := nodeDir(t, WAL, false)
	dir := (&Dir{path: path}).logPath(WAL)
	fs := readFiles(t, dir)
	b := fs[fs.tail()]
	b[used(b)/2] ^= 1
	if err := os.WriteFile(filepath.Join(dir, fs.tail()), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Convert(path, Bolt); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v, want ErrDamaged", err)
	}
	if _, err := OpenDir(path, "n1", Bolt); err == nil {
		t.Error("it says that it was converted")
	}
	if _, err := Convert(t.TempDir(), Bolt); err == nil {
		t.Error("an empty directory was converted")
	}
}

// A first start with one kind that did not come to an end does not keep the
// other kind from starting; a log without an identity does.
func TestFirstStartWithOtherKind(t *testing.T) {
	for _, kind := range []Kind{Bolt, WAL} {
		for _, holds := range []bool{false, true} {
			path := nodeDir(t, kind, !holds)
			if err := os.Remove(filepath.Join(path, identityFile)); err != nil {
				t.Fatal(err)
			}
			d, err := OpenDir(path, "n1", kind.other())
			if err != nil {
				t.Fatal(err)
			}
			s, err := d.OpenStore(Config{Timeout: 5 * time.Second})
			switch {
			case holds && !errors.Is(err, ErrDamaged):
				t.Errorf("%s: a log without an identity: %v", kind, err)
			case !holds && err != nil:
				t.Error(err)
			}
			if err == nil {
				s.Close()
			}
			d.Close()
		}
	}
}
