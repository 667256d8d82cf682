package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley/internal/chaos"
	"github.com/parley-chat/parley/internal/local"
)

// chaosTarget is the cluster that suffers.
type chaosTarget interface {
	chaos.Target
	addresses() []string // for clients
	deaths() error       // nodes that ended without having been killed
	// close ends what was started. What may explain a failure is kept.
	close(ctx context.Context, failed bool) error
}

// localTarget is a cluster of processes on this machine.
type localTarget struct {
	*local.Cluster
	dir       string
	temporary bool // the directory is ours

	mu   sync.Mutex
	died []error
}

var _ chaosTarget = (*localTarget)(nil)

// startTarget starts a cluster and waits until it is ready. All nodes are given args.
func startTarget(ctx context.Context, dir string, nodes int, args ...string) (_ *localTarget, err error) {
	t := &localTarget{dir: dir}
	if dir == "" {
		if t.dir, err = os.MkdirTemp("", "parley-chaos-"); err != nil {
			return nil, err
		}
		t.temporary = true
	}
	t.Cluster, err = local.New(ctx, local.Config{Dir: t.dir, Nodes: nodes, Args: args, OnExit: t.exited})
	if err != nil {
		return nil, err
	}
	ready, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the cluster was not ready within a minute"))
	defer cancel()
	err = t.Start()
	if err == nil {
		err = t.WaitReady(ready)
	}
	if err != nil {
		return nil, errors.Join(err, t.close(ctx, true))
	}
	return t, nil
}

// exited is told of the end of every process.
func (t *localTarget) exited(e local.Exit) {
	if e.Wanted {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.died = append(t.died, fmt.Errorf("%s ended by itself (%v): %s", e.Node.Name, e.Err, e.Node.LastLog()))
}

func (t *localTarget) addresses() []string { return t.Servers() }

func (t *localTarget) deaths() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(t.died...)
}

func (t *localTarget) close(ctx context.Context, failed bool) error {
	err := t.Stop(context.WithoutCancel(ctx))
	t.Cluster.Close()
	switch {
	case !t.temporary:
	case failed || err != nil:
		err = errors.Join(err, fmt.Errorf("data and logs of the nodes are in %s", t.dir))
	default:
		err = os.RemoveAll(t.dir)
	}
	return err
}

// Fail implements chaos.Target.
func (t *localTarget) Fail(ctx context.Context, node string, fault chaos.Fault) error {
	n := t.Node(node)
	if n == nil {
		return errors.New("no such node")
	}
	switch fault {
	case chaos.Kill:
		n.Kill()
		return nil
	case chaos.Freeze:
		return n.Pause()
	case chaos.Term:
		return n.Stop(ctx)
	}
	return errors.New("not possible on this machine")
}

// Repair implements chaos.Target.
func (t *localTarget) Repair(_ context.Context, node string, fault chaos.Fault) error {
	if fault == chaos.Freeze {
		return t.Node(node).Resume()
	}
	return t.Node(node).Start()
}

// commandTarget is a running cluster whose nodes fail and recover by shell commands.
type commandTarget struct {
	kill, repair string
	servers      []string
}

var _ chaosTarget = (*commandTarget)(nil)

func (t *commandTarget) addresses() []string               { return t.servers }
func (t *commandTarget) deaths() error                     { return nil }
func (t *commandTarget) close(context.Context, bool) error { return nil }

// Fail implements chaos.Target.
func (t *commandTarget) Fail(ctx context.Context, node string, fault chaos.Fault) error {
	return shell(ctx, t.kill, node, fault)
}

// Repair implements chaos.Target.
func (t *commandTarget) Repair(ctx context.Context, node string, fault chaos.Fault) error {
	if t.repair == "" {
		return nil
	}
	return shell(ctx, t.repair, node, fault)
}

// shell runs a command for one node and fault, for two minutes at most.
func shell(ctx context.Context, command, node string, fault chaos.Fault) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command, "parley-chaos", node, string(fault))
	cmd.Env = append(os.Environ(), "PARLEY_NODE="+node, "PARLEY_FAULT="+string(fault))
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(out.String()))
	}
	return nil
}
