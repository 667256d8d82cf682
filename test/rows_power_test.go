package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/faultfs"
	"github.com/parley-chat/parley/internal/local"
	"github.com/parley-chat/parley/node"
)

// powerRows are about disks that lose what was not synced when the machine loses
// its power.
func powerRows() []row {
	return []row{
		{
			name: "power-loss-node", happens: "one machine loses its power amid a write, sync or change of names, the leader one time in two, five times: of what it had not synced, a random part is gone, by sectors",
			passes: "another one leads and commits within 10 s; the node starts from what is left", needs: []need{needRoot, needFUSE}, sample: true, run: powerLossNode,
		},
		{
			name: "power-loss-all", happens: "all machines lose their power at the same moment, five times",
			passes: "all start from what is left", needs: []need{needRoot, needFUSE}, run: powerLossAll,
		},
		{
			name: "power-loss-join", happens: "a machine loses its power at a random moment while its node, whose data are lost, joins again and is sent a snapshot, eight times",
			passes: "it goes on from what is left, and gets its vote", needs: []need{needRoot, needFUSE}, run: powerLossJoin,
		},
		{
			name: "power-loss-instants", happens: "all changes that a single node makes to its disk are recorded, from its first start on, while it stores mail and is killed and started; at 150 places among them, between any two writes, syncs and renames, the power is lost",
			passes: "what is left is started, has everything that was acknowledged by then, in order, and votes in no term again in which it has led", needs: []need{needRoot, needFUSE}, run: powerLossInstants,
		},
	}
}

// disk is where a node's data are.
type disk struct {
	*faultfs.Mount
	dir string
}

// openDisks puts the nodes' data on disks that can fail. The nodes have not been
// started yet.
func (e *episode) openDisks(record bool) {
	e.Helper()
	e.disks = make(map[*local.Node]*disk)
	for _, n := range e.Nodes() {
		dir := n.Data + "-disk"
		if err := os.Mkdir(dir, 0o700); err != nil {
			e.Fatal(err)
		}
		empty := faultfs.New()
		if record {
			empty.Record()
		}
		m, err := faultfs.Open(empty, dir)
		if err != nil {
			e.Fatal(err)
		}
		e.disks[n] = &disk{m, dir}
		n.Data = filepath.Join(dir, "data")
	}
}

// closeDisks kills the nodes and unmounts their disks. What is on them is kept if
// the episode has failed.
func (e *episode) closeDisks() {
	for n, d := range e.disks {
		n.SendKill()
		d.Fail()
		n.Kill()
		if err := d.Close(); err != nil {
			e.Error(err)
			continue
		}
		if e.Failed() {
			if err := d.Disk().CopyTo(d.dir); err != nil {
				e.Error(err)
			}
		}
	}
	e.disks = nil
}

// losePower takes the power from nodes, at the moment at which trigger's disk
// has seen some more changes, and gives it back.
func (e *episode) losePower(trigger *local.Node, nodes ...*local.Node) {
	e.Helper()
	e.losePowerAt(e.disks[trigger].FreezeAt(1+e.rng.IntN(300)), trigger, nodes...)
}

func (e *episode) losePowerAt(moment <-chan struct{}, trigger *local.Node, nodes ...*local.Node) {
	e.Helper()
	select {
	case <-moment:
	case <-time.After(patience):
		e.Fatalf("%s writes nothing", trigger.Name)
	}
	for _, n := range nodes {
		e.disks[n].Freeze()
	}
	for _, n := range nodes {
		n.SendKill()
	}
	for _, n := range nodes {
		e.disks[n].Fail() // so that the process can end
		n.Kill()
	}
	for _, n := range nodes {
		e.remount(n, e.disks[n].Disk().PowerLoss(rand.New(rand.NewPCG(e.rng.Uint64(), 0))))
	}
}

// remount gives a node that does not run another disk.
func (e *episode) remount(n *local.Node, with *faultfs.Disk) {
	e.Helper()
	d := e.disks[n]
	if err := d.Close(); err != nil {
		e.Fatal(err)
	}
	m, err := faultfs.Open(with, d.dir)
	if err != nil {
		e.Fatal(err)
	}
	d.Mount = m
}

// small are flags that make checkpoints frequent.
func small(e *episode) []string {
	return append(logStore(e), "--checkpoint-bytes", "64KiB", "--checkpoint-every", fmt.Sprint(e.between(20*time.Millisecond, time.Second)))
}

func powerLossNode(e *episode) {
	e.start(setting{disks: true, talk: true, args: small(e)})
	for range 5 {
		n := e.leader()
		if e.rng.IntN(2) == 0 {
			n = e.follower()
		}
		e.fault("power loss", "%s", n.Name)
		e.losePower(n, n)
		e.newLeader(n, commitsWithin)
		e.begin(n)
		e.whole()
		e.healed()
		e.load.awaitAcks(200)
	}
}

func powerLossAll(e *episode) {
	e.start(setting{disks: true, args: small(e)})
	for range 5 {
		e.load.awaitAcks(100 + e.rng.Int64N(3000))
		e.fault("power loss of all", "")
		e.losePower(e.Nodes()[e.rng.IntN(3)], e.Nodes()...)
		if err := e.Start(); err != nil {
			e.Fatal(err)
		}
		e.whole()
		e.healed()
	}
}

func powerLossJoin(e *episode) {
	e.start(setting{disks: true, args: append(small(e), manyEntries()...)})
	e.grow(50)
	for _, n := range e.Nodes() {
		eventuallyFor(e.T, 4*time.Minute, func() error { return truncated(n) })
	}
	n := e.follower()
	for range 8 {
		n.Kill()
		e.remount(n, faultfs.New())
		at := 1 + e.rng.IntN(200)
		e.fault("power loss while joining", "%s, after %d changes", n.Name, at)
		moment := e.disks[n].FreezeAt(at)
		e.begin(n, "--join")
		e.losePowerAt(moment, n, n)
		e.begin(n, "--join")
		e.whole()
		waitVoters(e.T, e.Servers(), 3)
		e.healed()
	}
}

// powerLossInstants records what a node does to its disk, and then looks at what
// would have been left at many moments.
func powerLossInstants(e *episode) {
	flags := small(e)
	e.start(setting{nodes: 1, senders: -1, disks: true, record: true, args: flags})
	n := e.Nodes()[0]
	d := e.disks[n].Disk()
	type event struct {
		at, mail int
		term     uint64
	} // what was acknowledged, and the term, when so many changes had been made
	var events []event
	s := newClient(e.T, n.Client)
	session := s.Session()
	must(e.T, session, parley.CreateUser{Name: "sleeper"})
	sent := 0
	for range 4 {
		for range 20 + e.rng.IntN(60) {
			sent++
			must(e.T, session, parley.Send{To: "sleeper", Body: body(sent)})
			events = append(events, event{d.Changes(), sent, 0})
		}
		term, err := termOf(e.Context(), s)
		if err != nil {
			e.Fatal(err)
		}
		events = append(events, event{d.Changes(), sent, term})
		n.Kill()
		e.begin(n)
		e.whole()
	}
	n.Kill()
	all := d.Changes()
	var instants []int
	for range 150 {
		instants = append(instants, 1+e.rng.IntN(all))
	}
	slices.Sort(instants)
	dir, replay := e.memory(), d.Replay()
	for _, at := range instants {
		e.fault("power loss at an instant", "%d of %d changes", at, all)
		var want event
		for _, v := range events {
			if v.at <= at {
				want.mail, want.term = v.mail, max(want.term, v.term)
			}
		}
		to := filepath.Join(dir, fmt.Sprint(at, "-", e.faults["power loss at an instant"]))
		if err := replay.To(at).PowerLoss(e.rng).CopyTo(to); err != nil {
			e.Fatal(err)
		}
		refused, err := alone(filepath.Join(to, "data"), flags[1], e.rng, func(ctx context.Context, n *node.Node) error {
			if want.mail == 0 { // perhaps it has not even been in a cluster; then it begins a new one
				return nil
			}
			for i, b := range inbox(e.T, n, "sleeper") {
				if b != body(i+1) {
					return fmt.Errorf("message %d is %q", i+1, b)
				}
				want.mail--
			}
			if want.mail > 0 {
				return fmt.Errorf("the last %d acknowledged messages are missing", want.mail)
			}
			term, err := termOf(ctx, n)
			if err == nil && term <= want.term {
				err = fmt.Errorf("it leads in term %d, and has led in term %d before", term, want.term)
			}
			return err
		})
		if err := errors.Join(refused, err); err != nil {
			e.Errorf("power loss after change %d of %d: %v", at, all, err)
			if err := os.CopyFS(filepath.Join(e.dir, fmt.Sprint("instant-", at)), os.DirFS(to)); err != nil {
				e.Log(err)
			}
		}
		os.RemoveAll(to)
	}
	e.delivery.Sent, e.delivery.Acknowledged, e.delivery.Delivered = sent, sent, sent
	e.extra = append(e.extra, fmt.Sprintf("%d changes recorded", all))
}

// body is the text of a message by its number.
func body(n int) string { return fmt.Sprintf("message %d %s", n, strings.Repeat("x", n*37%2000)) }
