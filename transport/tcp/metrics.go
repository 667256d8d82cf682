package tcp

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connections *prometheus.CounterVec // by protocol
	commands    *prometheus.CounterVec // classic ones by command and answer
	pushed      prometheus.Counter
	confirmed   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_gateway_connections_total", Help: "Client connections by protocol."}, []string{"protocol"}),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_classic_commands_total", Help: "Commands of classic clients by answer."}, []string{"command", "answer"}),
		pushed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_classic_messages_pushed_total", Help: "Messages queued for classic clients."}),
		confirmed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_classic_messages_confirmed_total", Help: "Messages whose bytes a classic client's TCP has confirmed."}),
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.commands, m.pushed, m.confirmed)
	}
	return m
}
