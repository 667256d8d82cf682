package rpc

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connections prometheus.Counter
	open        prometheus.Gauge
	calls       *prometheus.CounterVec // by method and status
	panics      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		connections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_rpc_connections_total", Help: "gRPC connections."}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "parley_rpc_calls_open", Help: "gRPC calls under way, watches included."}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_rpc_calls_total", Help: "gRPC calls that have ended, by status."}, []string{"method", "status"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_rpc_panics_total", Help: "gRPC calls that ended by a panic, which is a bug."}),
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.open, m.calls, m.panics)
	}
	return m
}
