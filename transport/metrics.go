package transport

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	open              prometheus.Gauge
	accepted, refused prometheus.Counter
	panics            prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "parley_connections_open", Help: "Client connections that are open."}),
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_connections_accepted_total", Help: "Client connections that were accepted."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_connections_refused_total", Help: "Client connections that were closed at once because there were too many."}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_connection_panics_total", Help: "Client connections that ended by a panic, which is a bug."}),
	}
	if reg != nil {
		reg.MustRegister(m.open, m.accepted, m.refused, m.panics)
	}
	return m
}
