package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meters are the node's metrics.
type meters struct {
	reg prometheus.Registerer

	entries, failed, installs, crashes, overflows, crowds, elections prometheus.Counter
	ops, latency                                                     prometheus.Histogram
	leading                                                          prometheus.Gauge
	behind                                                           *prometheus.GaugeVec
}

// newMeters registers with reg; nil means that nobody looks.
func newMeters(reg prometheus.Registerer) *meters {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &meters{reg: reg}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_node_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "parley_node_" + name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	m.entries = counter("entries_total", "Log entries proposed by this node and committed.")
	m.failed = counter("entries_failed_total", "Log entries proposed by this node that were refused or whose fate it did not learn.")
	m.installs = counter("snapshots_sent_total", "Snapshots sent to members that had fallen behind the log.")
	m.crashes = counter("crash_elections_total", "Elections started because the leader's process had ended.")
	m.overflows = counter("watch_overflows_total", "Times a watcher did not keep up and had to read from the mailbox.")
	m.crowds = counter("watches_refused_total", "Watches that were refused because the mailbox had too many.")
	m.elections = counter("leader_changes_total", "Changes of this node's idea of whether it leads.")
	m.ops = histogram("entry_commands", "Commands in one log entry.", prometheus.ExponentialBuckets(1, 2, 11))
	m.latency = histogram("commit_seconds", "From making a log entry to its application.", prometheus.ExponentialBuckets(0.0005, 2, 14))
	m.leading = prometheus.NewGauge(prometheus.GaugeOpts{Name: "parley_node_leads", Help: "1 if this node leads."})
	m.behind = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "parley_node_member_lag_entries", Help: "Log entries by which a member lags, as its leader sees it."}, []string{"member"})
	reg.MustRegister(m.leading, m.behind)
	return m
}

// watch adds what is read from the node when somebody looks.
func (m *meters) watch(n *Node) {
	gauge := func(name, help string, value func() uint64) {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_node_" + name, Help: help},
			func() float64 { return float64(value()) }))
	}
	gauge("term", "Raft term.", n.raft.CurrentTerm)
	gauge("last_index", "Last index in the log.", n.raft.LastIndex)
	gauge("commit_index", "Last index known to be committed.", n.raft.CommitIndex)
	gauge("applied_index", "Last index applied to the state.", n.fsm.Applied)
	gauge("watches", "Open watches.", func() uint64 { return uint64(max(0, n.hub.watching.Load())) })
	gauge("lists_waiting", "Pages of names that wait to be computed.", func() uint64 { return uint64(n.lists.Waiting()) })
	gauge("queue_commands", "Commands waiting for the log.", n.proposer.waiting)
}

func (m *meters) batch(ops int) { m.ops.Observe(float64(ops)) }

func (m *meters) committed(begun time.Time, err error) {
	if err != nil {
		m.failed.Inc()
		return
	}
	m.entries.Inc()
	m.latency.Observe(time.Since(begun).Seconds())
}

func (m *meters) leads(self bool) {
	m.elections.Inc()
	if self {
		m.leading.Set(1)
	} else {
		m.leading.Set(0)
		m.behind.Reset()
	}
}

func (m *meters) lag(member string, entries uint64) {
	m.behind.WithLabelValues(member).Set(float64(entries))
}

func (m *meters) install()  { m.installs.Inc() }
func (m *meters) crash()    { m.crashes.Inc() }
func (m *meters) crowded()  { m.crowds.Inc() }
func (m *meters) overflow() { m.overflows.Inc() }
