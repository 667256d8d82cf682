package peers

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/bench/internal/server"
	"github.com/parley-chat/parley/internal/bench"
	"github.com/parley-chat/parley/internal/local"
)

const etcdPrefix = "mail/"

// Etcd returns etcd.
func Etcd() Peer {
	return Peer{
		Info: Info{
			ID: "etcd", Name: "etcd", Version: version("go.etcd.io/etcd/server/v3"),
			Settings: "defaults, plain text between servers; a key per message under a prefix per mailbox; " +
				"`clientv3` connected to the leader, `Put` in as many goroutines as messages are under way; `Watch` on the prefix",
			Promises: "synced on a majority",
			Missing:  "no deduplication: what a failover cuts off is for the caller to put again; nothing is acknowledged by readers nor taken out of the mailboxes",
		},
		args:   server.Args(server.Etcd, false),
		driver: func() driver { return new(etcdDriver) },
	}
}

type etcdDriver struct {
	clients atomic.Uint64 // made so far, which makes keys differ
}

func (d *etcdDriver) prepare(context.Context, *local.Cluster) error { return nil }

func (d *etcdDriver) close() {}

func (d *etcdDriver) leader(ctx context.Context, c *local.Cluster) (string, error) {
	all, err := etcdStatus(ctx, c)
	for name, s := range all {
		if s.Leader == s.Header.MemberId {
			return name, nil
		}
	}
	return "", errors.Join(errors.New("no leader"), err)
}

func (d *etcdDriver) healthy(ctx context.Context, c *local.Cluster) error {
	all, err := etcdStatus(ctx, c)
	if err != nil {
		return err
	}
	var most uint64
	for _, s := range all {
		most = max(most, s.RaftAppliedIndex)
	}
	for name, s := range all {
		if s.Leader == 0 || s.RaftAppliedIndex+100 < most {
			return errors.New(name + " lags behind")
		}
	}
	return nil
}

// etcdStatus asks all nodes. The error is about those that did not answer.
func etcdStatus(ctx context.Context, c *local.Cluster) (map[string]*clientv3.StatusResponse, error) {
	cl, err := etcdConnect(c.Nodes())
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	all := make(map[string]*clientv3.StatusResponse)
	var errs []error
	for _, n := range c.Nodes() {
		s, err := cl.Status(ctx, n.Client)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n.Name, err))
			continue
		}
		all[n.Name] = s
	}
	return all, errors.Join(errs...)
}

func etcdConnect(to []*local.Node) (*clientv3.Client, error) {
	var endpoints []string
	for _, n := range to {
		endpoints = append(endpoints, n.Client)
	}
	return clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
}

func (d *etcdDriver) dial(to []*local.Node, window int, _ func(bool)) (bench.Client, error) {
	c := &etcdClient{id: d.clients.Add(1)}
	var err error
	if c.cl, err = etcdConnect(to); err != nil {
		return nil, err
	}
	c.adapter.send = c.put
	if window > 1 {
		c.jobs = make(chan etcdJob, window)
		c.adapter.send = c.enqueue
		for range window {
			c.workers.Go(c.work)
		}
	}
	return c, nil
}

// etcdClient puts, or watches, over a connection of its own.
type etcdClient struct {
	adapter
	cl   *clientv3.Client
	id   uint64
	n    atomic.Uint64
	jobs chan etcdJob // nil: puts block

	workers sync.WaitGroup
	close   sync.Once
}

type etcdJob struct {
	ctx      context.Context
	to, body string
	done     func(error)
}

// put blocks.
func (c *etcdClient) put(ctx context.Context, to, body string, done func(error)) {
	key := etcdPrefix + to + "/" + strconv.FormatUint(c.id, 10) + "/" + strconv.FormatUint(c.n.Add(1), 10)
	_, err := c.cl.Put(ctx, key, body)
	done(err)
}

func (c *etcdClient) enqueue(ctx context.Context, to, body string, done func(error)) {
	c.jobs <- etcdJob{ctx, to, body, done}
}

func (c *etcdClient) work() {
	for j := range c.jobs {
		c.put(j.ctx, j.to, j.body, j.done)
	}
}

// Close ends the connection and waits for what is under way. Nothing may be sent
// meanwhile.
func (c *etcdClient) Close() (err error) {
	c.close.Do(func() {
		if c.jobs != nil {
			close(c.jobs)
		}
		err = c.cl.Close()
		c.workers.Wait()
	})
	return err
}

func (d *etcdDriver) dialReader(at *local.Node) (bench.Client, error) {
	cl, err := etcdConnect([]*local.Node{at})
	return &etcdReader{etcdClient{cl: cl}}, err
}

type etcdReader struct{ etcdClient }

// Receive yields what is put into a mailbox from now on.
func (c *etcdReader) Receive(ctx context.Context, user string, _ parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		first, err := c.cl.Get(ctx, etcdPrefix+user+"/", clientv3.WithPrefix())
		if err != nil {
			yield(parley.Message{}, err)
			return
		}
		for _, kv := range first.Kvs { // sent while the reader was on its way
			if !yield(parley.Message{Body: string(kv.Value)}, nil) {
				return
			}
		}
		for res := range c.cl.Watch(ctx, etcdPrefix+user+"/", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision+1)) {
			if err := res.Err(); err != nil {
				yield(parley.Message{}, err)
				return
			}
			for _, e := range res.Events {
				if !yield(parley.Message{Body: string(e.Kv.Value)}, nil) {
					return
				}
			}
		}
		yield(parley.Message{}, context.Cause(ctx))
	}
}
