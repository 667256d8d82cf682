package account

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley"
)

type metrics struct {
	logins          *prometheus.CounterVec
	refused         prometheus.Counter // sends
	sessionsRefused prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_logins_total", Help: "Logins by outcome: ok, wrong, or overloaded and other failures.",
		}, []string{"outcome"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_sends_refused_total", Help: "Messages that were refused because their user sends too many."}),
		sessionsRefused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_sessions_refused_total", Help: "Sessions that were refused because their user has too many."}),
	}
	if reg != nil {
		reg.MustRegister(m.logins, m.refused, m.sessionsRefused)
	}
	return m
}

func (m *metrics) login(err error) {
	outcome := "ok"
	switch {
	case errors.Is(err, errWrong):
		outcome = "wrong"
	case parley.CodeOf(err) == parley.CodeOverloaded:
		outcome = "overloaded"
	case err != nil:
		outcome = "failed"
	}
	m.logins.WithLabelValues(outcome).Inc()
}
