package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/parley-chat/parley/internal/local"
)

// TestMain makes the test binary be the parley program where scripts, and the
// clusters that tests start, ask for it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"parley": func() { os.Exit(mainCode()) }})
}

// TestScripts runs what needs no cluster.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true, Setup: cleanEnv, Cmds: scriptCmds()})
}

// scriptCmds are our own script commands: `status 2 parley create` runs a
// program and demands its exit status.
func scriptCmds() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"status": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) < 2 {
				ts.Fatalf("usage: status N program [arg...]")
			}
			got := 0
			if err := ts.Exec(args[1], args[2:]...); err != nil {
				var exit *exec.ExitError
				if !errors.As(err, &exit) {
					ts.Fatalf("%v", err)
				}
				got = exit.ExitCode()
			}
			if strconv.Itoa(got) != args[0] {
				ts.Fatalf("exit status %d, want %s", got, args[0])
			}
		},
		// settled waits until one member leads and all others follow: other scripts
		// keep the cluster busy.
		"settled": func(ts *testscript.TestScript, _ bool, args []string) {
			var out []byte
			for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				out, _ = exec.Command("parley", "status", "--servers", ts.Getenv(args[0])).Output()
				if s := string(out); strings.Count(s, " leader ") == 1 && strings.Count(s, " follower ") == 2 && strings.Count(s, " yes\n") == 3 {
					return
				}
			}
			ts.Fatalf("not settled:\n%s", out)
		},
	}
}

// cleanEnv keeps settings of whoever runs the tests out of the scripts.
func cleanEnv(env *testscript.Env) error {
	var vars []string
	for _, kv := range env.Vars {
		if !strings.HasPrefix(kv, "PARLEY_") {
			vars = append(vars, kv)
		}
	}
	env.Vars = vars
	return nil
}

// devCluster is a running `parley dev`.
type devCluster struct {
	t       *testing.T
	dir     string
	cmd     *exec.Cmd
	out     *bufio.Scanner
	clients []string // client addresses
	pids    []string
}

// startDev starts a cluster and waits until it is ready. It is stopped with the test.
func startDev(t *testing.T, dir string, args ...string) *devCluster {
	t.Helper()
	args = append([]string{"dev", "--dir", dir, "--client-port", "0", "--peer-port", "0", "--ops-port", "0"}, args...)
	d := &devCluster{t: t, dir: dir, cmd: exec.Command("parley", args...)}
	d.cmd.Stderr = os.Stderr
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		d.cmd.Wait()
		if t.Failed() {
			d.dumpLogs()
		}
	})
	d.out = bufio.NewScanner(stdout)
	for {
		line := d.line()
		if strings.HasPrefix(line, "ready") {
			return d
		}
		f := strings.Fields(line)
		if len(f) != 10 || f[0] != "node" || f[2] != "pid" || f[4] != "client" || f[6] != "peer" || f[8] != "ops" {
			t.Fatalf("parley dev printed %q", line)
		}
		d.pids = append(d.pids, f[3])
		d.clients = append(d.clients, f[5])
	}
}

// line reads the next line of the output. If none comes, the cluster is killed.
func (d *devCluster) line() string {
	d.t.Helper()
	late := time.AfterFunc(30*time.Second, func() { d.cmd.Process.Kill() })
	defer late.Stop()
	if !d.out.Scan() {
		d.t.Fatalf("no more lines from parley dev: %v", d.cmd.Wait())
	}
	return d.out.Text()
}

// stop is Ctrl-C.
func (d *devCluster) stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		io.Copy(io.Discard, d.cmd.Stdout.(io.Reader))
		ended <- nil
	}()
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("parley dev ended with %v", err)
	}
	<-ended
}

func (d *devCluster) dumpLogs() {
	logs, _ := filepath.Glob(filepath.Join(d.dir, "*.log"))
	for _, log := range logs {
		b, _ := os.ReadFile(log)
		d.t.Logf("--- %s\n%s", log, b[max(0, len(b)-4000):])
	}
}

func (d *devCluster) servers() string { return strings.Join(d.clients, ",") }

// runs runs parley and returns its output and exit status.
func runs(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "parley", args...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestCluster runs the scripts that need a cluster against one that they share.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	d := startDev(t, t.TempDir())
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/cluster", RequireExplicitExec: true, Cmds: scriptCmds(),
			Setup: func(env *testscript.Env) error {
				if err := cleanEnv(env); err != nil {
					return err
				}
				env.Setenv("PARLEY_SERVERS", d.servers())
				for i, addr := range d.clients {
					env.Setenv("N"+strconv.Itoa(i+1), addr)
				}
				return freePorts(env)
			},
		})
	})
	d.stop()
}

// freePorts gives a script ports for a node of its own: PORT1, PORT2, PORT3.
func freePorts(env *testscript.Env) error {
	taken := map[int]bool{}
	for i := range 3 {
		port, err := local.FreePort("127.0.0.1", taken)
		if err != nil {
			return err
		}
		taken[port] = true
		env.Setenv("PORT"+strconv.Itoa(i+1), strconv.Itoa(port))
	}
	return nil
}

// TestDevKeepsEverything stops a cluster and starts it again.
func TestDevKeepsEverything(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	dir := t.TempDir()
	d := startDev(t, dir)
	if out, errs, status := runs(t, "create ann\nsend ann hello\n", "chat", "--servers", d.servers()); status != 0 {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	d.stop()
	d = startDev(t, dir)
	out, errs, status := runs(t, "", "listen", "ann", "--drain", "--json", "--servers", d.servers())
	if status != 0 || !strings.Contains(out, `"body":"hello"`) {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	d.stop()
}

// TestDevRestartsDeadNodes kills a node.
func TestDevRestartsDeadNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	d := startDev(t, t.TempDir(), "--restart-after", "100ms")
	if err := exec.Command("kill", "-9", d.pids[1]).Run(); err != nil {
		t.Fatal(err)
	}
	line := d.line()
	if f := strings.Fields(line); len(f) != 10 || f[1] != "n2" || f[3] == d.pids[1] || f[5] != d.clients[1] {
		t.Errorf("parley dev printed %q", line)
	}
	d.stop() // perhaps amid the start of n2
}

// TestDevLeavesNothingBehind kills `parley dev` itself.
func TestDevLeavesNothingBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	d := startDev(t, t.TempDir(), "--nodes", "1")
	d.cmd.Process.Kill()
	d.cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); ; {
		b, err := os.ReadFile("/proc/" + d.pids[0] + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a node outlived parley dev")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
