// Package test runs clusters of real processes and does to them what happens to
// machines. What it checks is what users were promised.
package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/local"
)

// program is the parley program under test.
var program string

func TestMain(m *testing.M) {
	if spec := os.Getenv(hostileEnv); spec != "" {
		os.Exit(runAssault(spec))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "parley-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "parley")
		if out, err := exec.Command("go", "build", "-o", program, "../cmd/parley").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// patience bounds everything that must happen sooner or later.
const patience = 30 * time.Second

// startCluster starts a cluster that is stopped when the test ends.
func startCluster(t *testing.T, nodes int, args ...string) *local.Cluster {
	t.Helper()
	c, err := local.New(t.Context(), local.Config{Binary: program, Dir: t.TempDir(), Nodes: nodes, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if t.Failed() {
			for _, n := range c.Nodes() {
				tail, _ := n.Tail(4 << 10)
				t.Logf("--- log of %s\n%s", n.Name, tail)
			}
		}
	})
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitReady(t, c)
	return c
}

func waitReady(t *testing.T, c *local.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// newClient returns a client that is closed when the test ends.
func newClient(t *testing.T, servers ...string) *client.Client {
	t.Helper()
	return newClientOf(t, client.Config{Servers: servers})
}

// newClientOf is newClient with more to say about it.
func newClientOf(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// must runs a command and fails the test unless it is answered with CodeOK.
func must(t *testing.T, s *parley.Session, c parley.Command) parley.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := s.Do(ctx, c)
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		t.Fatalf("%#v: %v", c, err)
	}
	return r
}

// leader waits until the cluster has a leader and returns its process.
func leader(t *testing.T, c *local.Cluster) *local.Node {
	t.Helper()
	cl := newClientOf(t, client.Config{Servers: c.Servers(), Dial: c.Dial})
	defer cl.Close()
	var found *local.Node
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r, err := cl.Get(ctx, parley.Status{})
		if err != nil {
			return err
		}
		for _, m := range r.Members {
			if m.Role == parley.RoleLeader && m.Reachable {
				found = c.Node(m.ID)
				return nil
			}
		}
		return fmt.Errorf("no leader among %+v", r.Members)
	})
	return found
}

// others returns the nodes of the cluster but one.
func others(c *local.Cluster, but *local.Node) []*local.Node {
	var ns []*local.Node
	for _, n := range c.Nodes() {
		if n != but {
			ns = append(ns, n)
		}
	}
	return ns
}

// eventually polls until f returns nil.
func eventually(t *testing.T, f func() error) { t.Helper(); eventuallyFor(t, patience, f) }

func eventuallyFor(t *testing.T, patience time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not after %v: %v", patience, err)
		}
		time.Sleep(20 * time.Millisecond) // between polls
	}
}

// parleyCmd runs the program to its end and returns its exit status and output.
func parleyCmd(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		status = exit.ExitCode()
	default:
		t.Fatalf("parley %v: %v", args, err)
	}
	return status, out.String(), errs.String()
}
