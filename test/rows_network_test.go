package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/check"
	"github.com/parley-chat/parley/internal/local"
	"github.com/parley-chat/parley/internal/netns"
)

// networkRows are about the network between hosts: every node has a network
// namespace of its own, and so have clients.
func networkRows() []row {
	rows := []row{
		{
			name: "net-minority-leader", sample: true,
			happens: "the leader is cut off from the other nodes, not from clients, three times",
			passes:  "another one leads within 10 s; the former one acknowledges nothing and answers no question that only it is asked",
			run:     func(e *episode) { minorityLeader(e, times(3)) },
		},
		{
			name: "net-split-3-2", happens: "five nodes split into three and two, the leader being on either side, twice",
			passes: "the three commit within 10 s; the two acknowledge nothing and answer no question", run: splitFive,
		},
		{
			name: "net-leader-mute", happens: "what the leader sends to the other nodes is lost, what they send arrives",
			passes: "commits within 10 s; the term grows by at most 3 within a minute (20 s, unless LONG=1)",
			run:    func(e *episode) { oneWay(e, "leader mute", true, true) },
		},
		{
			name: "net-leader-deaf", happens: "what the other nodes send to the leader is lost, what it sends arrives", passes: "the same",
			run: func(e *episode) { oneWay(e, "leader deaf", true, false) },
		},
		{
			name: "net-follower-mute", happens: "what a follower sends to the other nodes is lost, what they send arrives", passes: "the same",
			run: func(e *episode) { oneWay(e, "follower mute", false, true) },
		},
		{
			name: "net-follower-deaf", happens: "what the other nodes send to a follower is lost, what it sends arrives", passes: "the same",
			run: func(e *episode) { oneWay(e, "follower deaf", false, false) },
		},
		{
			name: "net-bridge", happens: "the leader and a follower do not see each other, the third node sees both", passes: "the same",
			run: func(e *episode) { bridge(e, false) },
		},
		{
			name: "net-refused", happens: "the same, but a firewall between the two answers that the port is closed, as if the process were dead", passes: "the same",
			run: func(e *episode) { bridge(e, true) },
		},
		{
			name: "net-client-cut", happens: "clients are cut off from the leader only, three times",
			passes: "they have acknowledgements within 10 s, through other nodes", run: clientCut,
		},
		{
			name: "net-follower-cut", happens: "a follower is cut off and healed, three times",
			passes: "no pause in writing of more than 5 s; it has caught up within 30 s", run: followerCut,
		},
		{
			name: "net-loss-10", happens: "10 % of all frames are lost, for 20 s", passes: "no pause in writing of more than 10 s",
			run: func(e *episode) { loss(e, 10, 10*time.Second) },
		},
		{
			name: "net-loss-30", happens: "30 % of all frames between nodes are lost, for 20 s", passes: "",
			run: func(e *episode) { loss(e, 30, 0) },
		},
		{
			name: "net-256-kbit", happens: "no node sends more than 256 kbit/s, for 20 s", passes: "no pause in writing of more than 10 s", run: narrow,
		},
		{
			name: "net-flapping", happens: "the leader's links fail and come back, each for 50 to 600 ms, for 20 s", passes: "", run: flapping,
		},
	}
	for i := range rows {
		rows[i].needs = []need{needNetwork}
	}
	return rows
}

var needNetwork = need{"root, `ip`, `nft`, `tc`", func() string {
	n, err := netns.New("a")
	if err != nil {
		return err.Error()
	}
	_ = n.Close() // nothing runs in it
	return ""
}}

// The hosts of clients: those of the episode's load, and others.
const (
	clientHost  = "clients"
	client2Host = "clients2"
)

// startNet starts a cluster in a network of its own.
func startNet(e *episode, s setting) *netns.Net {
	e.Helper()
	def(&s.nodes, 3)
	var hosts []string
	for i := range s.nodes {
		hosts = append(hosts, fmt.Sprint("n", i+1))
	}
	n, err := netns.New(append(slices.Clone(hosts), clientHost, client2Host)...)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		if err := n.Close(); err != nil {
			e.Error(err)
		}
	})
	s.local = func(cfg *local.Config) {
		for _, h := range hosts {
			cfg.Hosts = append(cfg.Hosts, n.Addr(h))
		}
		cfg.ClientPort, cfg.PeerPort, cfg.OpsPort = 3000, 7000, 8080
		cfg.Wrap, cfg.Dial = n.Command, n.Dialer(clientHost)
	}
	e.start(s)
	return n
}

// cut sets faults of the network and counts them as one.
func (e *episode) cut(n *netns.Net, kind string, faults ...netns.Fault) {
	e.Helper()
	e.fault(kind, "%v", faults)
	if err := n.Set(faults...); err != nil {
		e.Fatal(err)
	}
}

// heal ends the faults of the network.
func (e *episode) heal(n *netns.Net) {
	e.Helper()
	if err := n.Set(); err != nil {
		e.Fatal(err)
	}
	e.note("healed")
	e.healed()
}

func names(nodes []*local.Node) (all []string) {
	for _, n := range nodes {
		all = append(all, n.Name)
	}
	return all
}

// hostage is a client that reaches one node only. While that node has no majority it
// must acknowledge nothing, and answer no question.
type hostage struct {
	e      *episode
	node   *local.Node
	client *client.Client
	stream check.Stream
	cancel context.CancelFunc
	done   chan int // how often it got no answer
}

// hold makes a hostage, which asks until it is let go.
func (e *episode) hold(n *local.Node) *hostage {
	e.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != n.Client { // it may have heard of others
			return nil, errors.New("a hostage")
		}
		return e.Dial(ctx, network, addr)
	}
	h := &hostage{
		e: e, node: n, cancel: cancel, done: make(chan int, 1),
		client: newClientOf(e.T, client.Config{Servers: []string{n.Client}, Any: true, Dial: dial}),
		stream: check.Stream{From: fmt.Sprintf("hostage%d", sumOf(e.faults)), To: e.load.users[0]},
	}
	go h.run(ctx)
	return h
}

func (h *hostage) run(ctx context.Context) {
	s, refused := h.client.Session(), 0
	for ctx.Err() == nil {
		n := h.e.load.log.Send(h.stream)
		try, cancel := context.WithTimeout(ctx, time.Second)
		r, err := s.Do(try, parley.Send{From: h.stream.From, To: h.stream.To, Body: check.Body(h.stream, n)})
		if err == nil && ctx.Err() == nil {
			h.e.Errorf("%s is cut off and answers a send: %+v", h.node.Name, r)
		}
		r, err = h.client.Get(try, parley.Inbox{User: h.stream.To, Limit: -1})
		if err == nil && ctx.Err() == nil {
			h.e.Errorf("%s is cut off and answers a read: %+v", h.node.Name, r)
		}
		cancel()
		refused++
	}
	h.done <- refused
}

// free ends it; the network is to be healed after that.
func (h *hostage) free() {
	h.e.Helper()
	h.cancel()
	if n := <-h.done; n == 0 {
		h.e.Errorf("%s was asked nothing", h.node.Name)
	}
	h.client.Close()
}

func minorityLeader(e *episode, times int) {
	n := startNet(e, setting{talk: true})
	for range times {
		l := e.leader()
		e.cut(n, "leader in the minority", netns.Split([]string{l.Name}, names(others(e.Cluster, l)))...)
		h := e.hold(l)
		e.newLeader(l, commitsWithin)
		time.Sleep(e.between(time.Second, 4*time.Second))
		h.free()
		e.heal(n)
		e.whole()
		e.load.awaitAcks(500)
	}
}

func splitFive(e *episode) {
	n := startNet(e, setting{nodes: 5, talk: true})
	for range 2 {
		l := e.leader()
		rest := others(e.Cluster, l)
		e.rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		three, two := append(rest[:2:2], l), rest[2:]
		if e.rng.IntN(3) > 0 {
			three, two = rest[:3], append(rest[3:], l)
		}
		e.cut(n, "split 3/2", netns.Split(names(three), names(two))...)
		h := e.hold(two[e.rng.IntN(2)])
		if !e.load.acksWithin(commitsWithin) {
			e.Errorf("nothing is committed %v after %v were parted from %v", commitsWithin, names(three), names(two))
		}
		time.Sleep(e.between(2*time.Second, 6*time.Second))
		h.free()
		e.heal(n)
		e.whole()
		e.load.awaitAcks(500)
	}
}

// oneWay breaks the links between one node and the others in one direction: it is
// mute, or deaf.
func oneWay(e *episode, kind string, leader, mute bool) {
	n := startNet(e, setting{talk: true})
	node := e.leader()
	if !leader {
		node = e.follower()
	}
	var faults []netns.Fault
	for _, other := range names(others(e.Cluster, node)) {
		f := netns.Fault{From: node.Name, To: other}
		if !mute {
			f.From, f.To = f.To, f.From
		}
		faults = append(faults, f)
	}
	e.stable(func() { e.cut(n, kind, faults...) })
	e.heal(n)
	e.whole()
}

func bridge(e *episode, refuse bool) {
	n := startNet(e, setting{talk: true})
	l := e.leader()
	faults, kind := netns.Cut(l.Name, e.follower().Name), "bridge"
	if refuse {
		kind = "refused"
		for i := range faults {
			faults[i].Refuse = true
		}
	}
	e.stable(func() { e.cut(n, kind, faults...) })
	e.heal(n)
	e.whole()
}

// stable lets something happen, and for a while thereafter wants commits within
// 10 s and few new terms.
func (e *episode) stable(happen func()) {
	e.Helper()
	const most = 3 // new terms within a minute
	length := 20 * time.Second
	if *matrixLong {
		length = time.Minute
	}
	before := e.watch.highest()
	gap := e.longestGap(func() {
		happen()
		time.Sleep(length)
	})
	grown := e.watch.highest() - before
	e.extra = append(e.extra, fmt.Sprintf("longest pause %v, %d new terms", gap.Round(time.Millisecond), grown))
	if gap > commitsWithin {
		e.Errorf("nothing was acknowledged for %v", gap)
	}
	if grown > most {
		e.Errorf("the term grew by %d within %v, want at most %d", grown, length, most)
	}
}

func clientCut(e *episode) {
	n := startNet(e, setting{talk: true})
	cfg := client.Config{Servers: e.Servers(), Dial: n.Dialer(client2Host), Any: true}
	l2 := startLoadOf(e.T, cfg, "second-", 2, 2)
	for range 3 {
		l := e.leader()
		e.cut(n, "clients cut off from the leader", netns.Cut(client2Host, l.Name)...)
		if time.Sleep(100 * time.Millisecond); !l2.acksWithin(commitsWithin) { // what was under way has arrived
			e.Errorf("clients that are cut off from the leader have no acknowledgement after %v", commitsWithin)
		}
		time.Sleep(e.between(0, 3*time.Second))
		e.heal(n)
		l2.awaitAcks(500)
	}
	e.also(l2)
}

// also ends another load and counts what it did.
func (e *episode) also(l *load) {
	e.Helper()
	v := l.finish()
	e.extra = append(e.extra, fmt.Sprintf("%d acknowledged to others", v.Acknowledged))
}

func followerCut(e *episode) {
	n := startNet(e, setting{talk: true})
	for range 3 {
		l, f := e.leader(), e.follower()
		e.cut(n, "follower cut off", netns.Split([]string{f.Name}, names(others(e.Cluster, f)))...)
		gap := e.longestGap(func() { time.Sleep(e.between(time.Second, 5*time.Second)) })
		if gap > 5*time.Second {
			e.Errorf("nothing was acknowledged for %v while %s, a follower, was cut off; %s led", gap, f.Name, l.Name)
		}
		e.heal(n)
		e.caughtUp(healsWithin)
	}
}

// loss lets frames be lost: those between nodes, and if writing must go on, clients'
// too.
func loss(e *episode, percent int, most time.Duration) {
	n := startNet(e, setting{talk: true})
	var faults []netns.Fault
	if most > 0 {
		faults = append(faults, netns.Fault{Loss: percent})
	} else {
		for _, a := range names(e.Nodes()) {
			for _, b := range names(e.Nodes()) {
				if a != b {
					faults = append(faults, netns.Fault{From: a, To: b, Loss: percent})
				}
			}
		}
	}
	gap := e.longestGap(func() {
		e.cut(n, fmt.Sprintf("%d %% loss", percent), faults...)
		time.Sleep(20 * time.Second)
	})
	dropped, err := n.Dropped()
	if err != nil || dropped == 0 {
		e.Errorf("%d frames were lost, %v", dropped, err)
	}
	e.extra = append(e.extra, fmt.Sprintf("%d frames lost, longest pause %v", dropped, gap.Round(time.Millisecond)))
	if most > 0 && gap > most {
		e.Errorf("nothing was acknowledged for %v", gap)
	}
	e.heal(n)
	e.whole()
}

func narrow(e *episode) {
	// What four senders have under way takes 10 s at this rate, to two followers.
	n := startNet(e, setting{talk: true, senders: 2})
	limit := func(kbit int) {
		for _, node := range e.Nodes() {
			if err := n.Limit(node.Name, kbit); err != nil {
				e.Fatal(err)
			}
		}
	}
	gap := e.longestGap(func() {
		e.fault("256 kbit/s", "")
		limit(256)
		time.Sleep(20 * time.Second)
	})
	limit(0)
	e.healed()
	e.extra = append(e.extra, fmt.Sprintf("longest pause %v", gap.Round(time.Millisecond)))
	if gap > commitsWithin {
		e.Errorf("nothing was acknowledged for %v", gap)
	}
	e.whole()
}

func flapping(e *episode) {
	n := startNet(e, setting{talk: true})
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		l := e.watch.leader()
		if l == "" {
			l = e.Nodes()[e.rng.IntN(len(e.Nodes()))].Name
		}
		rest := names(others(e.Cluster, e.Node(l)))
		e.cut(n, "links of the leader fail", netns.Split([]string{l}, rest[:1+e.rng.IntN(2)])...)
		time.Sleep(e.between(50*time.Millisecond, 600*time.Millisecond))
		e.heal(n)
		time.Sleep(e.between(50*time.Millisecond, 600*time.Millisecond))
	}
	e.whole()
}
