package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
)

// newTestChat is a chat over a fake cluster that reads script from a pipe.
func newTestChat(t *testing.T, f *parleytest.Fake, in io.Reader, out io.Writer) *chat {
	t.Helper()
	return &chat{
		screen:  &pipe{in: in, out: out},
		timeout: 5 * time.Second,
		backend: backend{
			Service: f, session: parley.NewSession(f),
			node: func() (string, string) { return "n1", "127.0.0.1:3000" },
			receive: func(ctx context.Context, user string) iter.Seq2[parley.Message, error] {
				return f.Watch(ctx, user, parley.Cursor{})
			},
		},
	}
}

func converse(t *testing.T, f *parleytest.Fake, script string) (output string, err error) {
	t.Helper()
	var out bytes.Buffer
	err = newTestChat(t, f, strings.NewReader(script), &out).run(t.Context(), "")
	return out.String(), err
}

func TestChatFromPipe(t *testing.T) {
	f := parleytest.NewFake()
	defer f.Close()
	script := `
# the exercise's conversation
create user2
create user3
create user2
list
list ^user3$
list [
send user3 hello, user3
whoami
send nobody x
connect user3
whoami
send user3 to myself
delete user2
`
	want := `ok: created user2
ok: created user3
refused: name taken
ok: 2 users: user2, user3
ok: 1 user: user3
refused: bad pattern
ok: sent to user3 as message 1
ok: you are nobody: connect as a user; served by n1 (127.0.0.1:3000)
refused: no such user
ok: connected as user3, 1 unread
message 1 from (anonymous): hello, user3
ok: you are user3; served by n1 (127.0.0.1:3000)
ok: sent to user3 as message 2
message 2 from user3: to myself
ok: deleted user2
`
	out, err := converse(t, f, script)
	if err != nil {
		t.Errorf("ended with %v", err)
	}
	// Messages come in between, whenever they come; refusals have details.
	got := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range strings.Split(strings.TrimSpace(want), "\n") {
		i := 0
		for i < len(got) && !strings.HasPrefix(got[i], line) {
			i++
		}
		if i == len(got) {
			t.Errorf("no line %q in\n%s", line, out)
			continue
		}
		got = append(got[:i], got[i+1:]...)
	}
	if len(got) > 0 {
		t.Errorf("unexpected lines %q", got)
	}
	if n := f.Sessions(); n != 0 {
		t.Errorf("%d sessions left open", n)
	}
}

// eofReader tells when the end of its input has been read.
type eofReader struct {
	io.Reader
	ended chan struct{}
}

func (r *eofReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		close(r.ended)
	}
	return n, err
}

// TestChatCatchesUp: mail that comes only after the input has ended is shown.
func TestChatCatchesUp(t *testing.T) {
	f := parleytest.NewFake()
	defer f.Close()
	in := &eofReader{strings.NewReader("create a\nconnect a\nsend a late\n"), make(chan struct{})}
	var out bytes.Buffer
	c := newTestChat(t, f, in, &out)
	watch := c.receive
	c.receive = func(ctx context.Context, user string) iter.Seq2[parley.Message, error] {
		return func(yield func(parley.Message, error) bool) {
			<-in.ended
			watch(ctx, user)(yield)
		}
	}
	if err := c.run(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "message 1 from a: late\n") {
		t.Errorf("not shown: %q", out.String())
	}
}

// TestChatConnectsAgain: mail that an earlier connect has shown is not waited for.
func TestChatConnectsAgain(t *testing.T) {
	f := parleytest.NewFake()
	defer f.Close()
	in, script := io.Pipe()
	var out bytes.Buffer
	c := newTestChat(t, f, in, &out)
	watch := c.receive
	shown := make(chan struct{}, 1)
	c.receive = func(ctx context.Context, user string) iter.Seq2[parley.Message, error] {
		return func(yield func(parley.Message, error) bool) {
			for m, err := range watch(ctx, user) {
				if !yield(m, err) || err != nil {
					return
				}
				// As the client's Receive: acknowledged, at the latest, when the loop ends.
				defer parley.Do(context.WithoutCancel(ctx), f, parley.Request{Command: parley.Ack{User: user, UpTo: m.Cursor}})
				shown <- struct{}{}
			}
		}
	}
	go func() {
		defer script.Close()
		io.WriteString(script, "create a\nsend a x\nconnect a\n")
		<-shown
		io.WriteString(script, "connect a\n")
	}()
	if err := c.run(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "message 1 from"); n != 1 {
		t.Errorf("message 1 was shown %d times:\n%s", n, out.String())
	}
}

func TestChatExitStatus(t *testing.T) {
	f := parleytest.NewFake()
	defer f.Close()
	for _, c := range []struct {
		script string
		want   int
	}{
		{"", exitDone},
		{"create a\nquit\nfoo\n", exitDone},
		{"create a\n", exitDone}, // taken: an answer
		{"foo\ncreate b\n", exitUsage},
		{"send a\n", exitUsage},
		{strings.Repeat("x", maxLine+10) + "\ncreate c\n", exitUsage},
	} {
		if _, err := converse(t, f, c.script); exitCode(err) != c.want {
			t.Errorf("%.20q: exit status %d (%v), want %d", c.script, exitCode(err), err, c.want)
		}
	}
	f.OnStart(func(parley.Request) parleytest.Fault {
		return parleytest.Fault{Err: parley.Errorf(parley.CodeUnsupported, "not today")}
	})
	out, err := converse(t, f, "create d\nfoo\n")
	if exitCode(err) != exitNoAnswer || !strings.HasPrefix(out, "error: ") {
		t.Errorf("unanswered: exit status %d, %q", exitCode(err), out)
	}
}

func TestChatLosesItsUser(t *testing.T) {
	f := parleytest.NewFake()
	defer f.Close()
	in, script := io.Pipe()
	outR, outW := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := newTestChat(t, f, in, outW).run(t.Context(), "")
		outW.Close()
		ended <- err
	}()
	out := bufio.NewScanner(outR)
	expect := func(prefix string) {
		t.Helper()
		if !out.Scan() || !strings.HasPrefix(out.Text(), prefix) {
			t.Fatalf("got %q, want %q…", out.Text(), prefix)
		}
	}
	io.WriteString(script, "create a\nconnect a\n")
	expect("ok: created a")
	expect("ok: connected as a, 0 unread")
	if _, err := parley.Do(t.Context(), f, parley.Request{Command: parley.Send{From: "x\x1b[2J", To: "a", Body: "\u202eevil"}}); err != nil {
		t.Fatal(err)
	}
	expect(`message 1 from x\x1b[2J: \u202eevil`)
	if _, err := parley.Do(t.Context(), f, parley.Request{Command: parley.DeleteUser{Name: "a"}}); err != nil {
		t.Fatal(err)
	}
	expect("no longer connected as a: no such user")
	io.WriteString(script, "whoami\n")
	expect("ok: you are nobody")
	script.Close()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestChatHangsUp(t *testing.T) {
	f := parleytest.NewFake()
	defer f.Close()
	in, _ := io.Pipe() // nobody types
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("hung up"))
	if err := newTestChat(t, f, in, io.Discard).run(ctx, ""); err != nil {
		t.Errorf("ended with %v", err)
	}
}
