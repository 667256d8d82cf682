package peers

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/bench/internal/server"
	"github.com/parley-chat/parley/internal/bench"
	"github.com/parley-chat/parley/internal/local"
)

const (
	natsStream = "MAIL"
	natsPrefix = "mail."
)

// NATS returns JetStream twice: with each write synced, and with its default.
func NATS() []Peer {
	peer := Peer{
		Info: Info{
			ID: "nats-always", Name: "NATS JetStream R3, sync always",
			Version: version("github.com/nats-io/nats-server/v2") + ", nats.go " + version("github.com/nats-io/nats.go"),
			Settings: "`sync_interval: always`, else defaults, plain text between servers; one file stream with 3 replicas, a subject per mailbox; " +
				"clients connected to the stream's leader: `Publish` in closed loops, `PublishAsync` with an ack handler in windows; " +
				"durable pull consumer led by the same node, read by `Messages`, each message acked",
			Promises: "synced on a majority",
			Missing:  "no deduplication (`Nats-Msg-Id` not used): what a failover cuts off is for the caller to publish again, perhaps twice; nothing is taken out of the mailboxes",
		},
		args:   server.Args(server.NATS, true),
		driver: func() driver { return new(natsDriver) },
	}
	byDefault := peer
	byDefault.ID, byDefault.Name = "nats-default", "NATS JetStream R3, default"
	byDefault.Settings = "as above, `sync_interval` as it is by default (2 minutes)"
	byDefault.Promises = "handed to the system on a majority, not synced"
	byDefault.Missing = "**acknowledges before it syncs**: when the machines lose power, up to two minutes of acknowledged messages are lost; else as above"
	byDefault.args = server.Args(server.NATS, false)
	return []Peer{peer, byDefault}
}

type natsDriver struct {
	nc *nats.Conn // for administration
	js jetstream.JetStream
}

func (d *natsDriver) close() {
	if d.nc != nil {
		d.nc.Close()
	}
}

func (d *natsDriver) prepare(ctx context.Context, c *local.Cluster) (err error) {
	if d.nc, err = natsConnect(c.Nodes(), nil); err != nil {
		return err
	}
	if d.js, err = jetstream.New(d.nc); err != nil {
		return err
	}
	return until(ctx, func(ctx context.Context) error {
		_, err := d.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: natsStream, Subjects: []string{natsPrefix + "*"}, Storage: jetstream.FileStorage, Replicas: len(c.Nodes()),
		})
		return err
	})
}

func (d *natsDriver) info(ctx context.Context) (*jetstream.ClusterInfo, error) {
	s, err := d.js.Stream(ctx, natsStream)
	if err != nil {
		return nil, err
	}
	cl := s.CachedInfo().Cluster
	if cl == nil || cl.Leader == "" {
		return nil, errors.New("the stream has no leader")
	}
	return cl, nil
}

func (d *natsDriver) leader(ctx context.Context, _ *local.Cluster) (string, error) {
	cl, err := d.info(ctx)
	if err != nil {
		return "", err
	}
	return cl.Leader, nil
}

func (d *natsDriver) healthy(ctx context.Context, c *local.Cluster) error {
	cl, err := d.info(ctx)
	if err != nil {
		return err
	}
	if len(cl.Replicas) != len(c.Nodes())-1 {
		return errors.New("replicas are missing")
	}
	for _, r := range cl.Replicas {
		if !r.Current || r.Offline {
			return errors.New(r.Name + " is not current")
		}
	}
	return c.WaitReady(ctx)
}

// natsConnect connects to the first node that answers, and to others if it is lost.
func natsConnect(to []*local.Node, connected func(bool)) (*nats.Conn, error) {
	if connected == nil {
		connected = func(bool) {}
	}
	var urls []string
	for _, n := range to {
		urls = append(urls, "nats://"+n.Client)
	}
	return nats.Connect(strings.Join(urls, ","), nats.DontRandomize(), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // else it prints them; publishers are told anyway
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				connected(false)
			}
		}))
}

func (d *natsDriver) dial(to []*local.Node, window int, connected func(bool)) (bench.Client, error) {
	nc, err := natsConnect(to, connected)
	if err != nil {
		return nil, err
	}
	c := &natsClient{nc: nc, pending: make(map[*nats.Msg]func(error))}
	c.js, err = jetstream.New(nc,
		jetstream.WithPublishAsyncAckHandler(func(_ jetstream.JetStream, m *nats.Msg, _ *jetstream.PubAck) { c.outcome(m, nil) }),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) { c.outcome(m, err) }))
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.adapter.send = c.publish
	if window > 1 {
		c.adapter.send = c.publishAsync
	}
	return c, nil
}

// natsClient publishes, or reads, over a connection of its own.
type natsClient struct {
	adapter
	nc *nats.Conn
	js jetstream.JetStream

	mu      sync.Mutex
	pending map[*nats.Msg]func(error) // published and neither acknowledged nor failed
}

// publish blocks.
func (c *natsClient) publish(ctx context.Context, to, body string, done func(error)) {
	_, err := c.js.Publish(ctx, natsPrefix+to, []byte(body))
	done(err)
}

func (c *natsClient) publishAsync(_ context.Context, to, body string, done func(error)) {
	m := &nats.Msg{Subject: natsPrefix + to, Data: []byte(body)}
	c.mu.Lock()
	c.pending[m] = done
	c.mu.Unlock()
	if _, err := c.js.PublishMsgAsync(m); err != nil {
		c.outcome(m, err)
	}
}

func (c *natsClient) outcome(m *nats.Msg, err error) {
	c.mu.Lock()
	done := c.pending[m]
	delete(c.pending, m)
	c.mu.Unlock()
	if done != nil {
		done(err)
	}
}

// Close ends the connection and fails what is under way.
func (c *natsClient) Close() error {
	c.nc.Close()
	c.mu.Lock()
	var msgs []*nats.Msg
	for m := range c.pending {
		msgs = append(msgs, m)
	}
	c.mu.Unlock()
	for _, m := range msgs {
		c.outcome(m, nats.ErrConnectionClosed)
	}
	return nil
}

func (d *natsDriver) dialReader(at *local.Node) (bench.Client, error) {
	nc, err := natsConnect([]*local.Node{at}, nil)
	if err != nil {
		return nil, err
	}
	c := &natsReader{natsClient: natsClient{nc: nc}}
	c.js, err = jetstream.New(nc)
	return c, err
}

type natsReader struct{ natsClient }

// Receive reads by a durable consumer, each message acknowledged when the next one
// is asked for.
func (c *natsReader) Receive(ctx context.Context, user string, _ parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		msgs, err := c.consume(ctx, user)
		if err != nil {
			yield(parley.Message{}, err)
			return
		}
		defer context.AfterFunc(ctx, msgs.Stop)()
		defer msgs.Stop()
		for {
			m, err := msgs.Next()
			if err != nil {
				yield(parley.Message{}, err)
				return
			}
			if !yield(parley.Message{Body: string(m.Data())}, nil) {
				return
			}
			if err := m.Ack(); err != nil {
				yield(parley.Message{}, err)
				return
			}
		}
	}
}

// consume makes a durable consumer whose leader is the stream's: NATS places it by
// chance, and one elsewhere costs a hop.
func (c *natsReader) consume(ctx context.Context, user string) (jetstream.MessagesContext, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for try := 0; ; try++ {
		s, err := c.js.Stream(ctx, natsStream)
		if err != nil {
			return nil, err
		}
		cons, err := s.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: fmt.Sprintf("%s-%d", user, try), FilterSubject: natsPrefix + user, AckPolicy: jetstream.AckExplicitPolicy,
		})
		if err != nil {
			return nil, err
		}
		if s.CachedInfo().Cluster.Leader == cons.CachedInfo().Cluster.Leader || try == 20 {
			return cons.Messages()
		}
		if err := s.DeleteConsumer(ctx, cons.CachedInfo().Name); err != nil {
			return nil, err
		}
	}
}
