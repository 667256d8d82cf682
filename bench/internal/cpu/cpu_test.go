package cpu

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	r, err := parseMachine("cpu  100 20 30 400 50 6 7 8 0 0\ncpu0 1 2 3\n")
	if err != nil || r.all != 158*tick || r.max != 621*tick {
		t.Errorf("%+v, %v", r, err)
	}
	d, err := parseProcess("42 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14\n")
	if err != nil || d != 23*tick {
		t.Errorf("%v, %v", d, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu a b c d e f g h", "intr 1 2 3 4 5 6 7 8"} {
		if _, err := parseMachine(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, err := parseProcess("42 (a) S 1"); err == nil {
		t.Error("a short line was accepted")
	}
}

func TestOthers(t *testing.T) {
	begun := reading{all: 10 * time.Second, own: time.Second, max: 100 * time.Second}
	for _, c := range []struct {
		now  reading
		want float64
		ok   bool
	}{
		{reading{all: 18 * time.Second, own: 4 * time.Second, max: 120 * time.Second}, 0.25, true},
		{reading{all: 14 * time.Second, own: 5 * time.Second, max: 120 * time.Second}, 0, true}, // counted differently, nothing left
		{begun, 0, false},
	} {
		if got, ok := others(begun, c.now); got != c.want || ok != c.ok {
			t.Errorf("%+v: %v, %v, want %v, %v", c.now, got, ok, c.want, c.ok)
		}
	}
}

// onlyLinuxTells ends a test that has got no figures: where there is no /proc
// nothing can be checked, on Linux it is a failure.
func onlyLinuxTells(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "linux" {
		t.Fatal("no figures on Linux")
	}
	t.Skip("figures come from /proc, which only Linux has")
}

// TestOwn: what this process uses is not what others use.
func TestOwn(t *testing.T) {
	m := Start()
	if m.begun.max == 0 {
		onlyLinuxTells(t)
	}
	before := m.begun
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
	}
	now, err := m.read()
	if err != nil {
		t.Fatal(err)
	}
	if used := now.own - before.own; used < 20*time.Millisecond {
		t.Errorf("this process used %v of 300 ms", used)
	}
	if _, ok := m.Others(); !ok {
		t.Error("no answer")
	}
	if _, ok := Start(1 << 30).Others(); ok {
		t.Error("an answer about a process that is not there")
	}
}

// TestResident: what a process makes use of shows.
func TestResident(t *testing.T) {
	before, err := Resident(os.Getpid())
	if err != nil {
		onlyLinuxTells(t)
	}
	block := make([]byte, 64<<20)
	for i := 0; i < len(block); i += 1024 {
		block[i] = 1
	}
	after, err := Resident(os.Getpid())
	if err != nil || after < before+60<<20 {
		t.Errorf("%d bytes before and %d after making 64 MiB, %v", before, after, err)
	}
	runtime.KeepAlive(block)
	if _, err := Resident(1 << 30); err == nil {
		t.Error("an answer about a process that is not there")
	}
}
