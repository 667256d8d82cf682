package test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley/internal/local"
	"github.com/parley-chat/parley/internal/proxy"
)

// proxyRows are about connections: a proxy stands in front of every node's client
// port, or of its port for other nodes.
func proxyRows() []row {
	return []row{
		{
			name: "proxy-client-delay", happens: "what clients send and get takes 50 ms longer each way, then 200 ms, for 8 s each",
			passes: "no pause in writing of more than 5 s",
			run: func(e *episode) {
				p := startProxied(e, setting{talk: true}, clients)
				p.delay(8*time.Second, 5*time.Second, 50*time.Millisecond, 200*time.Millisecond)
			},
		},
		{
			name: "proxy-peer-delay-50", happens: "what nodes send each other takes 50 ms longer each way, for 15 s",
			passes: "no pause in writing of more than 10 s",
			run: func(e *episode) {
				p := startProxied(e, setting{talk: true}, peers)
				p.delay(15*time.Second, commitsWithin, 50*time.Millisecond)
			},
		},
		{
			name: "proxy-peer-delay-200", happens: "the same with 200 ms, where nodes run with `--heartbeat-timeout 2s`", passes: "the same",
			run: func(e *episode) {
				p := startProxied(e, setting{talk: true, args: []string{"--heartbeat-timeout", "2s"}}, peers)
				p.delay(15*time.Second, commitsWithin, 200*time.Millisecond)
			},
		},
		{
			name: "proxy-client-resets", happens: "connections of clients are reset, half of the time in the midst of a frame, about five times a second for 15 s", passes: "",
			run: func(e *episode) { startProxied(e, setting{talk: true}, clients).resets(15 * time.Second) },
		},
		{
			name: "proxy-peer-resets", happens: "the same with connections between nodes", passes: "",
			run: func(e *episode) { startProxied(e, setting{talk: true}, peers).resets(15 * time.Second) },
		},
		{
			name: "proxy-client-half-open", happens: "all connections that clients have with the leader fall silent, in one direction or in both, for good, four times; new ones work",
			passes: "commits within 10 s", run: func(e *episode) { halfOpen(e, clients) },
		},
		{
			name: "proxy-peer-half-open", happens: "the same with all connections that other nodes have opened to one node", passes: "the same",
			run: func(e *episode) { halfOpen(e, peers) },
		},
		{
			name: "proxy-client-answers-lost", happens: "commands arrive, their answers do not, and then the connections are reset, ten times", passes: "",
			sample: true,
			run:    func(e *episode) { startProxied(e, setting{talk: true}, clients).answersLost(10) },
		},
		{
			name: "proxy-peer-answers-lost", happens: "the same between nodes", passes: "",
			run: func(e *episode) { startProxied(e, setting{talk: true}, peers).answersLost(10) },
		},
	}
}

// side is whose connections go through proxies.
type side string

const (
	clients side = "client"
	peers   side = "peer"
)

// proxied is a cluster behind proxies.
type proxied struct {
	e    *episode
	side side
	by   map[string]*proxy.Proxy // what goes to each node
}

// startProxied starts a cluster with proxies in front of its nodes.
func startProxied(e *episode, s setting, whose side) *proxied {
	e.Helper()
	p := &proxied{e, whose, make(map[string]*proxy.Proxy)}
	at := make(map[string]string) // proxies' addresses by nodes'
	s.prepare = func(c *local.Cluster) {
		for _, n := range c.Nodes() {
			behind := n.Client
			if whose == peers {
				behind = n.Peer
			}
			px, err := proxy.New(behind)
			if err != nil {
				e.Fatal(err)
			}
			e.Cleanup(px.Close)
			p.by[n.Name], at[behind] = px, px.Addr()
		}
	}
	s.local = func(cfg *local.Config) {
		if whose == clients {
			cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if via := at[addr]; via != "" {
					addr = via
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			return
		}
		cfg.Wrap = func(_ string, argv []string) []string {
			members := &argv[slices.Index(argv, "--members")+1]
			for addr, via := range at {
				*members = strings.Replace(*members, addr, via, 1)
			}
			return argv
		}
	}
	e.start(s)
	return p
}

func (p *proxied) all(f proxy.Fault) {
	for _, px := range p.by {
		px.Set(f)
	}
}

// any is the proxy of a random node, and its name.
func (p *proxied) any() (*proxy.Proxy, string) {
	n := p.e.Nodes()[p.e.rng.IntN(len(p.e.Nodes()))]
	return p.by[n.Name], n.Name
}

// kind names what happens to connections.
func (p *proxied) kind(what string) string { return fmt.Sprintf("%s %s", p.side, what) }

// delay delays everything by each of several times, each for as long as d.
func (p *proxied) delay(d, most time.Duration, by ...time.Duration) {
	e := p.e
	for _, late := range by {
		e.fault(p.kind("delay "+late.String()), "")
		gap := e.longestGap(func() {
			p.all(proxy.Fault{Delay: late})
			time.Sleep(d)
		})
		e.extra = append(e.extra, fmt.Sprintf("longest pause with %v: %v", late, gap.Round(time.Millisecond)))
		if gap > most {
			e.Errorf("nothing was acknowledged for %v while everything took %v longer", gap, late)
		}
	}
	p.all(proxy.Fault{})
	e.healed()
}

// resets breaks connections of one random node after the other.
func (p *proxied) resets(d time.Duration) {
	e := p.e
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(e.between(50*time.Millisecond, 350*time.Millisecond)) {
		if px, name := p.any(); e.rng.IntN(2) == 0 {
			e.fault(p.kind("connections torn"), "%s: %d", name, px.Tear())
		} else {
			e.fault(p.kind("connections reset"), "%s: %d", name, px.Reset())
		}
	}
	e.healed()
}

func halfOpen(e *episode, whose side) {
	p := startProxied(e, setting{talk: true}, whose)
	for i := range 4 {
		n := e.leader()
		if whose == peers && i%2 == 1 {
			n = e.follower()
		}
		how := [][2]bool{{true, false}, {false, true}, {true, true}}[e.rng.IntN(3)]
		e.fault(p.kind("connections half-open"), "%s: %d, requests %v, answers %v", n.Name, p.by[n.Name].Stall(how[0], how[1]), how[0], how[1])
		gap := e.longestGap(func() {
			time.Sleep(e.between(2*time.Second, 4*time.Second))
			e.load.acksWithin(commitsWithin)
		})
		e.extra = append(e.extra, gap.Round(time.Millisecond).String())
		if gap > commitsWithin {
			e.Errorf("nothing was acknowledged for %v after connections with %s had become half-open", gap, n.Name)
		}
		e.load.awaitAcks(500)
	}
	e.healed()
	for _, px := range p.by { // nodes keep what is silent for longer than this row takes
		px.Reset()
	}
}

// answersLost lets commands through and not their answers, and then breaks the
// connections: whoever sent them cannot know how they fared.
func (p *proxied) answersLost(times int) {
	e := p.e
	for range times {
		e.fault(p.kind("answers lost"), "")
		p.all(proxy.Fault{HoldAnswers: true})
		time.Sleep(e.between(20*time.Millisecond, 500*time.Millisecond))
		for _, px := range p.by {
			px.Reset()
		}
		p.all(proxy.Fault{})
		e.healed()
		if !e.load.acksWithin(commitsWithin) {
			e.Fatalf("nothing is acknowledged %v after connections were reset", commitsWithin)
		}
		e.load.awaitAcks(100 + e.rng.Int64N(400))
	}
}
