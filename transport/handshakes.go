package transport

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/parley-chat/parley/internal/fair"
)

// HandshakesConfig configures [Handshakes].
type HandshakesConfig struct {
	// PerSecond is how many handshakes may begin in a second, and five times as many
	// at once after a pause; further ones wait. 0: no such limit.
	PerSecond int
	// PerIP is the same for one address, or one network of 64 bits of IPv6, as
	// that is what one machine is given; its further connections are closed.
	// 0: no such limit.
	//
	// Below half of PerSecond, no address alone can make others wait.
	PerIP int
	// Logger, nil: none.
	Logger *slog.Logger
	// Metrics, nil: none.
	Metrics prometheus.Registerer
}

// handshakeBurst is for how many seconds' handshakes may begin at once: clients that
// lose their node come all at once, and then seldom.
const handshakeBurst = 5

// Handshakes bounds how many TLS handshakes begin, as each costs much more than
// anything else that somebody may ask for who has not said who he is.
type Handshakes struct {
	cfg   HandshakesConfig
	all   *rate.Limiter // nil: no limit
	perIP *fair.Rates[netip.Addr]
	told  atomic.Int64 // when a refusal was last logged, in Unix nanoseconds

	waiting prometheus.Gauge
	refused prometheus.Counter
}

// NewHandshakes returns the limits, which hold for all that share them.
func NewHandshakes(cfg HandshakesConfig) *Handshakes {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Handshakes{
		cfg:   cfg,
		perIP: fair.NewRates[netip.Addr](cfg.PerIP, handshakeBurst*cfg.PerIP),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "parley_handshakes_waiting", Help: "Client connections that wait until their TLS handshake may begin."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_handshakes_refused_total", Help: "Client connections that were closed because of too many TLS handshakes a second."}),
	}
	if cfg.PerSecond > 0 {
		h.all = rate.NewLimiter(rate.Limit(cfg.PerSecond), handshakeBurst*cfg.PerSecond)
	}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(h.waiting, h.refused)
	}
	return h
}

// wait returns once a handshake on nc may begin, or says why none may.
func (h *Handshakes) wait(ctx context.Context, nc net.Conn, longest time.Duration) error {
	if h == nil {
		return nil
	}
	if !h.perIP.Take(network(remoteIP(nc))) {
		return h.refuse(nc, fmt.Errorf("more than %d handshakes a second from this address", h.cfg.PerIP))
	}
	if h.all == nil || h.all.Allow() {
		return nil
	}
	h.waiting.Inc()
	defer h.waiting.Dec()
	limited, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	if h.all.Wait(limited) == nil { // it fails at once if it would take longer
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return h.refuse(nc, fmt.Errorf("more than %d handshakes a second, and no turn within %v", h.cfg.PerSecond, longest))
}

// refuse takes note of a refusal and returns it.
func (h *Handshakes) refuse(nc net.Conn, why error) error {
	h.refused.Inc()
	now := time.Now().UnixNano()
	if told := h.told.Load(); now-told > int64(time.Second) && h.told.CompareAndSwap(told, now) { // a flood must not flood the log
		h.cfg.Logger.Warn("TLS handshakes are being refused", "client", nc.RemoteAddr(), "reason", why)
	}
	return why
}

// network is the part of an address that is somebody's own.
func network(ip netip.Addr) netip.Addr {
	if !ip.Is6() {
		return ip
	}
	p, err := ip.Prefix(64)
	if err != nil { // it cannot be
		return ip
	}
	return p.Addr()
}
