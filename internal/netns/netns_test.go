package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-chat/parley/internal/netns"
)

// The test program is also what runs on the hosts: `echo ADDRESS` answers every
// line with itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "echo" {
		ln, err := net.Listen("tcp", os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for {
			conn, err := ln.Accept()
			if err != nil {
				os.Exit(1)
			}
			go io.Copy(conn, conn)
		}
	}
	os.Exit(m.Run())
}

const patience = 30 * time.Second

func newNet(t *testing.T, hosts ...string) *netns.Net {
	t.Helper()
	n, err := netns.New(hosts...)
	if errors.Is(err, netns.ErrUnavailable) {
		t.Skipf("SKIPPED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// echo runs the echo service on a host and returns its address.
func echo(t *testing.T, n *netns.Net, host string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	addr := n.Addr(host) + ":7"
	argv := n.Command(host, []string{exe, "echo", addr})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return addr
}

// dial connects from a host, as soon as somebody listens.
func dial(t *testing.T, n *netns.Net, host, addr string) net.Conn {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := n.Dial(t.Context(), host, "tcp", addr)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// answered says a word, and reports whether it comes back in time.
func answered(t *testing.T, conn net.Conn, word string, wait time.Duration) error {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	_, err := io.ReadFull(conn, got)
	return err
}

func set(t *testing.T, n *netns.Net, faults ...netns.Fault) {
	t.Helper()
	if err := n.Set(faults...); err != nil {
		t.Fatal(err)
	}
}

const short = 300 * time.Millisecond // for what must not happen

// Each direction of each link is cut by itself; what was sent meanwhile arrives
// when it is healed.
func TestCuts(t *testing.T) {
	n := newNet(t, "a", "b", "c")
	ab, cb := dial(t, n, "a", echo(t, n, "b")), dial(t, n, "c", n.Addr("b")+":7")
	for _, faults := range [][]netns.Fault{
		{{From: "a", To: "b"}}, {{From: "b", To: "a"}}, netns.Cut("a", "b"),
		{{From: "a"}}, {{To: "a"}}, netns.Split([]string{"a"}, []string{"b", "c"}), {{From: "a", To: "b", Loss: 100}},
	} {
		t.Run(fmt.Sprint(faults), func(t *testing.T) {
			set(t, n, faults...)
			if err := answered(t, ab, "x", short); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a to b, cut: %v", err)
			}
			if err := answered(t, cb, "y", patience); err != nil {
				t.Errorf("c to b: %v", err)
			}
			set(t, n)
			if err := ab.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(ab, make([]byte, 1)); err != nil {
				t.Errorf("a to b, healed: %v", err)
			}
		})
	}
}

// A refused connection ends at once, and a new one is not made.
func TestRefuse(t *testing.T) {
	n := newNet(t, "a", "b", "c")
	ab, cb := dial(t, n, "a", echo(t, n, "b")), dial(t, n, "c", n.Addr("b")+":7")
	set(t, n, netns.Fault{From: "a", To: "b", Refuse: true})
	if err := answered(t, ab, "x", patience); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	if _, err := n.Dial(t.Context(), "a", "tcp", n.Addr("b")+":7"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want a refusal", err)
	}
	if err := answered(t, cb, "y", patience); err != nil {
		t.Errorf("c to b: %v", err)
	}
	set(t, n)
	dial(t, n, "a", n.Addr("b")+":7")
}

// With 30 % of frames lost TCP still brings everything, only later, and some was
// lost.
func TestLoss(t *testing.T) {
	n := newNet(t, "a", "b")
	ab := dial(t, n, "a", echo(t, n, "b"))
	set(t, n, netns.Fault{From: "a", To: "b", Loss: 30})
	for i := range 30 {
		if err := answered(t, ab, "x", 4*patience); err != nil { // eight losses in a row take 25 s
			t.Fatalf("word %d: %v", i, err)
		}
	}
	lost, err := n.Dropped()
	if err != nil || lost == 0 {
		t.Errorf("%d frames lost, %v", lost, err)
	}
}

// 64 KiB at 256 kbit/s take two seconds.
func TestLimit(t *testing.T) {
	n := newNet(t, "a", "b")
	ab := dial(t, n, "a", echo(t, n, "b"))
	if err := n.Limit("a", 256); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := answered(t, ab, strings.Repeat("x", 64<<10), patience); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 1500*time.Millisecond {
		t.Errorf("64 KiB took %v", took)
	}
	if err := n.Limit("a", 0); err != nil {
		t.Fatal(err)
	}
}

// Networks do not see each other, although their addresses are the same, nor does
// the machine see them.
func TestApart(t *testing.T) {
	n, m := newNet(t, "a", "b"), newNet(t, "a", "b")
	addr := echo(t, n, "b")
	dial(t, n, "a", addr)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if conn, err := m.Dial(ctx, "a", "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the other network: %v, %v", conn, err)
	}
	ifs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(ifs, func(i net.Interface) bool { return i.Name == "sw" }) {
		t.Error("the switch is on the machine's own network")
	}
}

func TestMistakes(t *testing.T) {
	n := newNet(t, "a", "b")
	for _, f := range []netns.Fault{{From: "x"}, {To: "x"}, {Loss: -1}, {Loss: 101}} {
		if err := n.Set(f); err == nil {
			t.Errorf("%v is set", f)
		}
	}
	if _, err := netns.New(); err == nil {
		t.Error("a network without hosts")
	}
}
