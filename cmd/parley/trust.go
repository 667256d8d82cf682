package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/grpclog"

	"github.com/parley-chat/parley/certs"
)

// trust is the certificates that a node shows, each under the name of the
// listener that shows it. Safe for concurrent use.
type trust struct {
	reg prometheus.Registerer

	mu      sync.Mutex
	names   []string
	sources []*certs.Source
}

// add takes in a listener's certificate, and measures when it ends.
func (t *trust) add(listener string, s *certs.Source) {
	t.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "parley_certificate_end_seconds", Help: "Unix time at which a listener's certificate ends.",
		ConstLabels: prometheus.Labels{"listener": listener},
	}, func() float64 { return float64(s.Leaf().NotAfter.Unix()) }))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.names, t.sources = append(t.names, listener), append(t.sources, s)
}

// warnings names the certificates that must be renewed within 30 days.
func (t *trust) warnings() (lines []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, s := range t.sources {
		leaf := s.Leaf()
		if !certs.Due(leaf) {
			continue
		}
		days := int(time.Until(leaf.NotAfter).Hours() / 24)
		line := fmt.Sprintf("the certificate of its %s listener ends on %s, in %d days: renew it", t.names[i], leaf.NotAfter.Format(time.DateOnly), days)
		if time.Now().After(leaf.NotAfter) {
			line = fmt.Sprintf("the certificate of its %s listener ended on %s: renew it", t.names[i], leaf.NotAfter.Format(time.DateOnly))
		}
		lines = append(lines, line)
	}
	return lines
}

// follow reads files again that have changed, at SIGHUP and once a minute. (Each
// handshake does so too; this is for those who wait for a line in the log.)
func (t *trust) follow(ctx context.Context, log *slog.Logger) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-hup:
			log.Info("SIGHUP: looking for new certificates")
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		t.mu.Lock()
		for _, s := range t.sources {
			s.Check()
		}
		t.mu.Unlock()
	}
}

// warnPlaintext says, at every start, that anybody on the network can read along.
func warnPlaintext(log *slog.Logger, listen string) {
	host, _, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "localhost" || ip != nil && ip.IsLoopback()) {
		return
	}
	log.Warn("clients are served without TLS on an address that others can reach: passwords and messages cross the network in clear text", "clients", listen)
}

// quietGRPC makes what gRPC has to complain about lines of the node's log.
func quietGRPC(log *slog.Logger) {
	w := slog.NewLogLogger(log.Handler(), slog.LevelWarn).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, w))
}
