package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
)

// terminal is a pseudo-terminal with a program on it.
type terminal struct {
	t   *testing.T
	f   *os.File
	cmd *exec.Cmd
	out string // not yet expected
	all string // whatever was shown
}

// onTerminal starts parley on a terminal of its own.
func onTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { f.Close() })
	var number int
	control(t, f, func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		if number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
			return err
		}
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 200})
	})
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer tty.Close()
	cmd := exec.Command("parley", args...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &terminal{t: t, f: f, cmd: cmd}
}

func control(t *testing.T, f *os.File, do func(fd int) error) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err == nil {
		var inner error
		err = raw.Control(func(fd uintptr) { inner = do(int(fd)) })
		if err == nil {
			err = inner
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// send types.
func (p *terminal) send(keys string) {
	p.t.Helper()
	if _, err := p.f.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// expect waits for a text behind the one expected before, and returns what the
// pattern's last group matched.
func (p *terminal) expect(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		if m := re.FindStringSubmatchIndex(p.out); m != nil {
			found := p.out[m[len(m)-2]:m[len(m)-1]]
			p.out = p.out[m[1]:]
			return found
		}
		p.read(pattern)
	}
}

// expectTimes waits until a text has been shown so often, in whatever place.
func (p *terminal) expectTimes(n int, pattern string) {
	p.t.Helper()
	for re := regexp.MustCompile(pattern); len(re.FindAllString(p.all, -1)) < n; {
		p.read(pattern)
	}
}

// read reads what is shown next. pattern is what for.
func (p *terminal) read(pattern string) {
	p.t.Helper()
	p.f.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 4096)
	n, err := p.f.Read(buf)
	p.out += string(buf[:n])
	p.all += string(buf[:n])
	if err != nil {
		p.t.Fatalf("no %q on the terminal but %q (%v)", pattern, p.out, err)
	}
}

// TestChatOnATerminal types, edits, sees a failover and leaves.
func TestChatOnATerminal(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	d := startDev(t, t.TempDir(), "--restart-after", "0")
	p := onTerminal(t, "chat", "--servers", d.servers())
	node := p.expect(`\r?\n?(n[123])> `)
	p.send("crX\x7feate term\r") // a typing error, mended
	p.expect(`ok: created term`)
	p.send("con\tterm\r")
	p.expect(`ok: connected as term, 0 unread`)
	p.expect(`term@` + node + `> `)
	p.send("send term one\r")
	p.expect(`ok: sent to term as message 1`)

	victim := int(node[1] - '1')
	if err := exec.Command("kill", "-9", d.pids[victim]).Run(); err != nil {
		t.Fatal(err)
	}
	p.expect(`-- lost ` + node)
	next := p.expect(`-- connected to (n[123]) `)
	if next == node {
		t.Errorf("connected to the dead node %s", next)
	}
	p.expect(`term@` + next + `> `)
	p.send("\x1b[A\r") // the last line again
	p.expect(`ok: sent to term as message 2`)
	p.expectTimes(2, `\d\d:\d\d:\d\d term: one`) // before or after the answers

	p.send("\x03") // Ctrl-C
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("chat ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("chat goes on after Ctrl-C")
	}
	if strings.Contains(p.all, "error") {
		t.Errorf("an error on the terminal: %q", p.all)
	}
}

// TestConsoleSaysTroubleOnce: a search for a node fails several times a second.
func TestConsoleSaysTroubleOnce(t *testing.T) {
	var out bytes.Buffer
	c := &console{t: term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{strings.NewReader(""), &out}, "")}
	trouble := func(text string) {
		c.event(client.Event{Kind: client.Retrying, Err: parley.Errorf(parley.CodeNoQuorum, "%s", text)})
	}
	c.event(client.Event{Kind: client.Connected, Node: "n1"})
	c.event(client.Event{Kind: client.Lost, Node: "n1", Err: io.EOF})
	trouble("no server reachable: a; b")
	trouble("no server reachable: b; a")
	trouble("no leader found: b")
	trouble("no leader found: b")
	c.event(client.Event{Kind: client.Connected, Node: "n2"})
	for text, want := range map[string]int{
		"-- lost n1": 1, "-- no server reachable: a; b; still trying": 1, "no server": 1, "-- no leader found": 1, "-- connected to n2": 1,
	} {
		if n := strings.Count(out.String(), text); n != want {
			t.Errorf("%q is shown %d times, want %d: %q", text, n, want, out.String())
		}
	}
}

func TestCompleteVerb(t *testing.T) {
	for _, c := range []struct{ line, want string }{{"cr", "create "}, {"l", "list "}, {"c", ""}, {"x", ""}, {"", ""}, {"send a", ""}} {
		line, pos, ok := completeVerb(c.line, len(c.line), '\t')
		if ok != (c.want != "") || line != c.want || pos != len(c.want) {
			t.Errorf("%q: %q %d %v", c.line, line, pos, ok)
		}
	}
}
