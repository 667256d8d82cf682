package check_test

import (
	"os"
	"strings"
	"testing"

	"github.com/parley-chat/parley/internal/check"
)

func TestLeaks(t *testing.T) {
	var l check.Leaks
	for _, h := range []check.Holdings{{Files: 20, Goroutines: 50}, {Files: 90, Goroutines: 300}, {Files: 25, Goroutines: 51}} {
		l.At("n1", h)
		l.At("n2", check.Holdings{Files: h.Files, Goroutines: -1})
	}
	if p := l.Problems(5); len(p) != 0 {
		t.Error(p)
	}
	l.At("n1", check.Holdings{Files: 26, Goroutines: 56})
	if p := l.Problems(5); len(p) != 2 || !strings.Contains(p[0], "n1 leaks descriptors: 20 at the beginning, 26") || !strings.Contains(p[1], "goroutines") {
		t.Error(p)
	}
}

func TestHoldings(t *testing.T) {
	h, err := check.HoldingsIn(strings.NewReader("# TYPE go_goroutines gauge\ngo_goroutines 61\nother 7\nprocess_open_fds 1.2e+01\n"))
	if err != nil || h != (check.Holdings{Files: 12, Goroutines: 61}) {
		t.Errorf("%+v %v", h, err)
	}
	for _, bad := range []string{"", "other 1\n", "go_goroutines many\n"} {
		if h, err := check.HoldingsIn(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: %+v", bad, h)
		}
	}
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("there is no /proc here")
	}
	before, err := check.HoldingsOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if now, err := check.HoldingsOf(os.Getpid()); err != nil || now.Files != before.Files+1 {
		t.Errorf("%+v before, %+v with one more file open: %v", before, now, err)
	}
}
