package peers

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/bench/internal/server"
	"github.com/parley-chat/parley/internal/bench"
	"github.com/parley-chat/parley/internal/local"
)

// RabbitMQ returns RabbitMQ as Debian packages it, or an error where it is not installed.
func RabbitMQ() (Peer, error) {
	found, err := filepath.Glob(filepath.Join(server.RabbitMQHome, "lib", "rabbitmq_server-*"))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("there is nothing in %s (Debian package rabbitmq-server)", server.RabbitMQHome)
	}
	if err == nil {
		_, err = exec.LookPath("epmd")
	}
	if err != nil {
		return Peer{}, fmt.Errorf("RabbitMQ: %w", err)
	}
	_, number, _ := strings.Cut(filepath.Base(found[0]), "-")
	return Peer{
		Info: Info{
			ID: "rabbitmq", Name: "RabbitMQ quorum queues", Version: "v" + number + ", amqp091-go " + version("github.com/rabbitmq/amqp091-go"),
			Settings: "defaults of Debian's package without plugins, plain text between servers; a quorum queue of 3 members for each mailbox, all led by one node; " +
				"`amqp091-go` connected to that node, a channel each with publisher confirms, messages persistent; readers consume with manual acknowledgement",
			Promises: "synced on a majority",
			Missing:  "no deduplication: what a failover cuts off is for the caller to publish again, perhaps twice; nothing is taken out of the mailboxes",
		},
		driver: func() driver { return new(rabbitDriver) },
	}, nil
}

// rabbitDriver owns the Erlang port mapper of its cluster.
type rabbitDriver struct {
	epmd   *exec.Cmd
	port   string
	cookie string
	home   string // of administrative commands
}

// begin starts the port mapper and says which flags the servers need to use it.
func (d *rabbitDriver) begin(dir string) ([]string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, d.port, _ = net.SplitHostPort(ln.Addr().String())
	if err := ln.Close(); err != nil {
		return nil, err
	}
	d.cookie, d.home = rand.Text(), filepath.Join(dir, "home")
	if err := os.MkdirAll(d.home, 0o700); err != nil {
		return nil, err
	}
	d.epmd = exec.Command("epmd", "-port", d.port, "-address", "127.0.0.1")
	if err := d.epmd.Start(); err != nil {
		d.epmd = nil
		return nil, err
	}
	return server.RabbitMQArgs(d.port, d.cookie), nil
}

func (d *rabbitDriver) close() {
	if d.epmd != nil {
		_ = d.epmd.Process.Kill()
		_ = d.epmd.Wait()
	}
}

// ctl asks a node with RabbitMQ's own tool, which takes a second or two.
func (d *rabbitDriver) ctl(ctx context.Context, at *local.Node, into any, args ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(server.RabbitMQHome, "bin", "rabbitmqctl"),
		append([]string{"-n", at.Name + "@" + server.RabbitMQHost, "--erlang-cookie", d.cookie, "--quiet", "--formatter", "json"}, args...)...)
	cmd.Env = server.RabbitMQEnviron(d.port, d.home)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("rabbitmqctl %s: %w: %s", args[0], err, out)
	}
	return json.Unmarshal(out, into)
}

// any asks the nodes that run, until one answers.
func (d *rabbitDriver) any(ctx context.Context, c *local.Cluster, into any, args ...string) (err error) {
	err = errors.New("no node runs")
	for _, n := range c.Nodes() {
		if n.PID() != 0 {
			if err = d.ctl(ctx, n, into, args...); err == nil {
				return nil
			}
		}
	}
	return err
}

func (d *rabbitDriver) prepare(context.Context, *local.Cluster) error { return nil }

// leader is the node that leads most queues; the first one if there are none.
func (d *rabbitDriver) leader(ctx context.Context, c *local.Cluster) (string, error) {
	var queues []struct{ Leader string }
	if err := d.any(ctx, c, &queues, "list_queues", "leader"); err != nil {
		return "", err
	}
	most, leads := c.Nodes()[0].Name, make(map[string]int)
	for _, q := range queues {
		name, _, _ := strings.Cut(q.Leader, "@")
		if leads[name]++; leads[name] > leads[most] {
			most = name
		}
	}
	return most, nil
}

func (d *rabbitDriver) healthy(ctx context.Context, c *local.Cluster) error {
	var status struct {
		Running []string `json:"running_nodes"`
	}
	if err := d.any(ctx, c, &status, "cluster_status"); err != nil {
		return err
	}
	if len(status.Running) != len(c.Nodes()) {
		return fmt.Errorf("%d nodes of %d form the cluster", len(status.Running), len(c.Nodes()))
	}
	var queues []struct{ Online []string }
	if err := d.any(ctx, c, &queues, "list_queues", "online"); err != nil {
		return err
	}
	for _, q := range queues {
		if len(q.Online) != len(c.Nodes()) {
			return errors.New("a queue has lost a member")
		}
	}
	return c.WaitReady(ctx)
}

func rabbitConnect(to []*local.Node) (*amqp.Connection, error) {
	var errs []error
	for _, n := range to {
		nc, err := amqp.Dial("amqp://guest:guest@" + n.Client)
		if err == nil {
			return nc, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (d *rabbitDriver) dial(to []*local.Node, _ int, connected func(bool)) (bench.Client, error) {
	c := &rabbitClient{to: to, connected: connected}
	c.adapter.send = c.publish
	return c, c.connect()
}

// rabbitClient publishes over a connection of its own, and makes another one when
// that is lost.
type rabbitClient struct {
	adapter
	to        []*local.Node
	connected func(bool)

	mu      sync.Mutex
	nc      *amqp.Connection
	ch      *amqp.Channel          // for messages
	admin   *amqp.Channel          // for queues
	pending map[uint64]func(error) // published over ch and not confirmed
	closed  bool
	redials sync.WaitGroup
}

var errLost = errors.New("the connection was lost")

// connect makes the connection and the channels.
func (c *rabbitClient) connect() error {
	nc, err := rabbitConnect(c.to)
	if err != nil {
		return err
	}
	ch, err := nc.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	var admin *amqp.Channel
	if err == nil {
		admin, err = nc.Channel()
	}
	if err != nil {
		return errors.Join(err, nc.Close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nc.Close()
	}
	c.nc, c.ch, c.admin, c.pending = nc, ch, admin, make(map[uint64]func(error))
	confirms, pending := ch.NotifyPublish(make(chan amqp.Confirmation, 4096)), c.pending
	c.redials.Go(func() { c.confirm(confirms, pending) })
	return nil
}

// confirm passes on confirmations until the channel ends, and connects again.
func (c *rabbitClient) confirm(confirms <-chan amqp.Confirmation, pending map[uint64]func(error)) {
	for cf := range confirms {
		c.mu.Lock()
		done := pending[cf.DeliveryTag]
		delete(pending, cf.DeliveryTag)
		c.mu.Unlock()
		switch {
		case done == nil:
		case cf.Ack:
			done(nil)
		default:
			done(errors.New("refused"))
		}
	}
	c.mu.Lock()
	var failed []func(error)
	for tag, done := range pending {
		failed = append(failed, done)
		delete(pending, tag)
	}
	nc, closed := c.nc, c.closed
	c.ch = nil
	c.mu.Unlock()
	for _, done := range failed {
		done(errLost)
	}
	if closed {
		return
	}
	if c.connected != nil {
		c.connected(false)
	}
	_ = nc.Close() // lost already, most likely
	for c.connect() != nil {
		time.Sleep(5 * time.Millisecond)
		c.mu.Lock()
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return
		}
	}
}

func (c *rabbitClient) publish(ctx context.Context, to, body string, done func(error)) {
	c.mu.Lock()
	if c.ch == nil {
		c.mu.Unlock()
		done(errLost)
		return
	}
	pending, tag := c.pending, c.ch.GetNextPublishSeqNo()
	pending[tag] = done
	err := c.ch.PublishWithContext(ctx, "", to, false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)})
	if err == nil || pending[tag] == nil { // else it has been failed already
		done = func(error) {}
	} else {
		delete(pending, tag)
	}
	c.mu.Unlock()
	done(err)
}

// Start implements bench.Client: a user is a queue.
func (c *rabbitClient) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	switch cmd := r.Command.(type) {
	case parley.CreateUser:
		c.manage(done, func(ch *amqp.Channel) error { return declareQueue(ch, cmd.Name) })
	case parley.DeleteUser:
		c.manage(done, func(ch *amqp.Channel) error { _, err := ch.QueueDelete(cmd.Name, false, false, false); return err })
	default:
		c.adapter.Start(ctx, r, done)
	}
}

// manage changes queues.
func (c *rabbitClient) manage(done func(parley.Result, error), f func(*amqp.Channel) error) {
	c.mu.Lock()
	ch := c.admin
	c.mu.Unlock()
	err := f(ch)
	if err != nil {
		err = parley.Errorf(parley.CodeOutcomeUnknown, "%v", err)
	}
	done(parley.Result{}, err)
}

// declareQueue makes a quorum queue that is led by the node that is asked for it.
func declareQueue(ch *amqp.Channel, name string) error {
	_, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{
		amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-queue-leader-locator": "client-local",
	})
	return err
}

// Close ends the connection and fails what is under way.
func (c *rabbitClient) Close() error {
	c.mu.Lock()
	c.closed = true
	nc := c.nc
	c.mu.Unlock()
	_ = nc.Close() // it may be lost
	c.redials.Wait()
	return nil
}

func (d *rabbitDriver) dialReader(at *local.Node) (bench.Client, error) {
	c := &rabbitReader{}
	var err error
	c.nc, err = rabbitConnect([]*local.Node{at})
	return c, err
}

// rabbitReader consumes queues.
type rabbitReader struct {
	adapter
	nc *amqp.Connection
}

func (c *rabbitReader) Close() error { return c.nc.Close() }

// Receive consumes a queue, each message acknowledged when the next one is asked for.
func (c *rabbitReader) Receive(ctx context.Context, user string, _ parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		ch, err := c.nc.Channel()
		if err != nil {
			yield(parley.Message{}, err)
			return
		}
		defer func() { _ = ch.Close() }() // fails when the connection is gone, and all with it
		deliveries, err := ch.ConsumeWithContext(ctx, user, "", false, false, false, false, nil)
		if err != nil {
			yield(parley.Message{}, err)
			return
		}
		for m := range deliveries {
			if !yield(parley.Message{Body: string(m.Body)}, nil) {
				return
			}
			if err := m.Ack(false); err != nil {
				yield(parley.Message{}, err)
				return
			}
		}
		yield(parley.Message{}, errLost)
	}
}
