package peer

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// counter is a raft.FSM that keeps what was applied.
type counter struct {
	mu   sync.Mutex
	data []string
}

func (c *counter) Apply(l *raft.Log) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = append(c.data, string(l.Data))
	return nil
}

func (c *counter) applied() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.data)
}

func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return c, nil }
func (c *counter) Restore(r io.ReadCloser) error       { return r.Close() }
func (c *counter) Persist(s raft.SnapshotSink) error   { return s.Close() }
func (c *counter) Release()                            {}

// Three real Rafts elect, replicate, and go on without the one that is closed.
func TestRaftOverTheNetwork(t *testing.T) {
	names := []string{"n1", "n2", "n3"}
	dir := authority(t, names...)
	var nets []*Network
	var rafts []*raft.Raft
	var fsms []*counter
	var servers []raft.Server
	for _, name := range names {
		n, log := listen(t, dir, name)
		cfg := raft.DefaultConfig()
		cfg.LocalID = raft.ServerID("id-" + name)
		cfg.Logger = hclogger(log.logger())
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 250*time.Millisecond, 250*time.Millisecond, 250*time.Millisecond
		cfg.CommitTimeout = 5 * time.Millisecond
		store, fsm := raft.NewInmemStore(), &counter{}
		r, err := raft.NewRaft(cfg, fsm, store, store, raft.NewInmemSnapshotStore(), n.Transport())
		must(t, err)
		t.Cleanup(func() { must(t, r.Shutdown().Error()) })
		nets, rafts, fsms = append(nets, n), append(rafts, r), append(fsms, fsm)
		servers = append(servers, raft.Server{ID: cfg.LocalID, Address: raft.ServerAddress(name)})
	}
	introduced(nets...)
	must(t, rafts[0].BootstrapCluster(raft.Configuration{Servers: servers}).Error())
	// apply puts an entry into the log, through whoever leads, and says who did.
	apply := func(entry string) (leader int) {
		eventually(t, entry+" is committed", func() bool {
			leader = slices.IndexFunc(rafts, func(r *raft.Raft) bool { return r.State() == raft.Leader })
			return leader >= 0 && rafts[leader].Apply([]byte(entry), time.Second).Error() == nil
		})
		return leader
	}
	first := 0
	for i := range 100 {
		first = apply(fmt.Sprint("entry ", i))
	}
	for i, f := range fsms {
		eventually(t, names[i]+" has all", func() bool { return len(slices.Compact(f.applied())) == 100 })
	}
	must(t, rafts[first].Shutdown().Error())
	must(t, nets[first].Close())
	if apply("more") == first {
		t.Error("a closed node leads")
	}
	for i, n := range nets {
		if i == first {
			continue
		}
		if name := within(t, "the end is told", n.Crashed()); name != names[first] {
			t.Errorf("%s was told that %s crashed", names[i], name)
		}
		addr, _ := rafts[i].LeaderWithID()
		eventually(t, names[i]+" knows the leader's name", func() bool {
			addr, _ = rafts[i].LeaderWithID()
			return slices.Contains(names, string(addr))
		})
	}
}

// Raft is not given pipelines: a follower that refuses entries once may be sent none
// any more (hashicorp/raft #612).
func TestNoPipelines(t *testing.T) {
	n, _ := listen(t, authority(t, "n1"), "n1")
	if _, err := n.Transport().AppendEntriesPipeline("id-n2", "n2"); err != raft.ErrPipelineReplicationNotSupported {
		t.Errorf("a pipeline: %v", err)
	}
}
