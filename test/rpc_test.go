package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parley-chat/parley/internal/local"
)

// exercise is the interface that the exercise's clients have stubs of. It is
// written down here once more so that api/helloworld cannot drift away from it.
const exercise = `
syntax = "proto3";
package helloworld;
service Chat {
  rpc try_command(Command) returns (Response);
  rpc listen(User) returns (Response);
}
message User { string name = 1; }
message Command { string command = 1; }
message Response { string message = 1; string name = 2; }
`

// python runs the examples in Python, with stubs made by Debian's protobuf
// compiler.
type python struct {
	t      *testing.T
	python string // program
	stubs  string // directory
}

func newPython(t *testing.T) *python {
	t.Helper()
	const packages = "python3-grpcio python3-protobuf protobuf-compiler protobuf-compiler-grpc"
	p := &python{t: t, stubs: t.TempDir()}
	for _, name := range []string{"python3", "/usr/bin/python3"} { // the latter is Debian's, for which its packages are
		if exec.Command(name, "-c", "import grpc, google.protobuf").Run() == nil {
			p.python = name
		}
	}
	if p.python == "" {
		t.Skipf("SKIPPED: no gRPC for Python (apt-get install %s)", packages)
	}
	plugin, err := exec.LookPath("grpc_python_plugin")
	if _, err2 := exec.LookPath("protoc"); err != nil || err2 != nil {
		t.Skipf("SKIPPED: no protobuf compiler with gRPC for Python (apt-get install %s)", packages)
	}
	sources := filepath.Join(t.TempDir(), "helloworld")
	if err := os.MkdirAll(sources, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sources, "helloworld.proto"), []byte(exercise), 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, file := range map[string]string{filepath.Dir(sources): "helloworld/helloworld.proto", "../api": "parley/v1/chat.proto"} {
		out, err := exec.Command("protoc", "-I", dir, "--python_out", p.stubs,
			"--plugin=protoc-gen-grpc_python="+plugin, "--grpc_python_out", p.stubs, file).CombinedOutput()
		if err != nil {
			t.Fatalf("protoc %s: %v\n%s", file, err, out)
		}
	}
	return p
}

// command is an example with its arguments, not yet started.
func (p *python) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*patience)
	p.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, p.python, append([]string{"../examples/python/" + name}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+p.stubs, "PYTHONDONTWRITEBYTECODE=1")
	cmd.Stderr = os.Stderr
	return cmd
}

// run runs an example to its end.
func (p *python) run(stdin, name string, args ...string) string {
	p.t.Helper()
	cmd := p.command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// legacyClient is a running legacy.py.
type legacyClient struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

func (p *python) legacy(n *local.Node) *legacyClient {
	p.t.Helper()
	cmd := p.command("legacy.py", n.Client)
	in, err := cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return &legacyClient{p.t, in, bufio.NewScanner(out)}
}

// legacyAnswer is what legacy.py prints for a line.
type legacyAnswer struct{ Message, Name, Error, Details string }

func (c *legacyClient) ask(line string) legacyAnswer {
	c.t.Helper()
	var a legacyAnswer
	if _, err := fmt.Fprintln(c.in, line); err != nil || !c.out.Scan() {
		c.t.Fatalf("%s: no answer: %v, %v", line, err, c.out.Err())
	}
	if err := json.Unmarshal(c.out.Bytes(), &a); err != nil {
		c.t.Fatal(err)
	}
	if a.Error != "" {
		c.t.Fatalf("%s: %+v", line, a)
	}
	return a
}

func (c *legacyClient) want(line, message string) {
	c.t.Helper()
	if got := c.ask(line); got.Message != message {
		c.t.Fatalf("%s: got %q, want %q", line, got.Message, message)
	}
}

// The exercise's stubs, made by Debian's compiler and run by Debian's gRPC, drive
// everything on every node.
func TestPythonLegacy(t *testing.T) {
	p := newPython(t)
	c := startCluster(t, 3)
	for i, n := range c.Nodes() {
		t.Run(n.Name, func(t *testing.T) {
			p := &python{t, p.python, p.stubs}
			a, b := p.legacy(n), p.legacy(c.Nodes()[(i+1)%3])
			u := fmt.Sprintf("run%d-", i)
			if got := a.ask("connect " + u + "ann"); strings.HasPrefix(got.Message, "Connection successful") || got.Name != "" {
				t.Errorf("connected as nobody: %+v", got)
			}
			a.ask("create " + u + "ann")
			a.ask("create " + u + "bob")
			a.want("list ^"+u, u+"ann\n"+u+"bob")
			if got := a.ask("connect " + u + "ann"); got.Message != "Connection successful for user "+u+"ann" || got.Name != u+"ann" {
				t.Errorf("connect: %+v", got)
			}
			a.ask("send " + u + "bob hello there")
			b.ask("send " + u + "bob  and, again")
			b.want("listen "+u+"bob", "Message: hello there\n\nMessage:  and, again\n\n")
			b.want("listen "+u+"bob", "")
			b.want("listen ", "")
			a.ask("delete " + u + "bob")
			b.want("list ^"+u, u+"ann")
			if got := a.ask("frobnicate"); !strings.Contains(got.Message, "Unknown command") {
				t.Errorf("an unknown command: %+v", got)
			}
		})
	}
}

// A client that is connected to a surviving node goes on when the leader is
// killed, and misses nothing.
func TestPythonLegacySurvivesLeaderKill(t *testing.T) {
	p := newPython(t)
	c := startCluster(t, 3)
	p.legacy(c.Nodes()[0]).ask("create bob")
	for round := range 2 {
		l := leader(t, c)
		rest := others(c, l)
		ann, bob := p.legacy(rest[0]), p.legacy(rest[1])
		ann.want("list", "bob")
		ann.want(fmt.Sprintf("send bob before %d", round), "Message sent to bob")
		l.Kill()
		ann.want(fmt.Sprintf("send bob after %d", round), "Message sent to bob")
		bob.want("listen bob", fmt.Sprintf("Message: before %d\n\nMessage: after %d\n\n", round, round))
		bob.want("listen bob", "")
		if err := l.Start(); err != nil {
			t.Fatal(err)
		}
		waitReady(t, c)
	}
}

// The example for parley.v1 sends each line once and shows each message once, in
// order, although the leader is killed again and again.
func TestPythonV1SurvivesLeaderKills(t *testing.T) {
	p := newPython(t)
	c := startCluster(t, 3)
	servers := strings.Join(c.Servers(), ",")
	p.run("", "chat.py", servers, "create", "ann")

	const n = 60
	watch := p.command("chat.py", servers, "watch", "ann", fmt.Sprint(n))
	var seen strings.Builder
	watch.Stdout = &seen
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	send := p.command("chat.py", servers, "send", "ann")
	lines, err := send.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := send.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := send.Start(); err != nil {
		t.Fatal(err)
	}
	answered := bufio.NewScanner(answers)
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("%d line %d", i+1, i+1))
		if _, err := fmt.Fprintf(lines, "line %d\n", i+1); err != nil {
			t.Fatal(err)
		}
		if i%20 == 10 { // with a line under way
			l := leader(t, c)
			l.Kill()
			if err := l.Start(); err != nil {
				t.Fatal(err)
			}
		}
		if !answered.Scan() || answered.Text() != fmt.Sprintf("sent %d", i+1) {
			t.Fatalf("line %d: %q, %v", i+1, answered.Text(), answered.Err())
		}
	}
	lines.Close()
	if err := send.Wait(); err != nil {
		t.Error(err)
	}
	if err := watch.Wait(); err != nil {
		t.Error(err)
	}
	if got := strings.Split(strings.TrimSpace(seen.String()), "\n"); !slices.Equal(got, want) {
		t.Errorf("seen %q\nwant %q", got, want)
	}
}

// The example in Go, as its comment says.
func TestGoExample(t *testing.T) {
	example := filepath.Join(t.TempDir(), "example")
	if out, err := exec.Command("go", "build", "-o", example, "../examples/go").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	c := startCluster(t, 3)
	for _, n := range c.Nodes() {
		out, err := exec.CommandContext(t.Context(), example, "-server", n.Client, "-user", "ann").CombinedOutput()
		want := "1 from example: hello\ncreate ann-2 → User ann-2 created\nconnect ann-2 → Connection successful for user ann-2\n" +
			"send ann-2 hello there → Message sent to ann-2\nlist ^ann-2 → ann-2\nMessage: hello there\n\n"
		if err != nil || string(out) != want {
			t.Errorf("%s: %v\n%s", n.Name, err, out)
		}
	}
}
