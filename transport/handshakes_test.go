package transport

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// caller is a connection of which only the other end's address matters.
type caller struct {
	net.Conn
	from string
}

func (c caller) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.from), 1))
}

// TestHandshakes: those of one address are refused beyond its limit, and that is no
// other's loss; beyond the limit of all they wait, and not for ever.
func TestHandshakes(t *testing.T) {
	const patience = time.Second
	var (
		log bytes.Buffer
		reg *prometheus.Registry
	)
	begin := func(t *testing.T, cfg HandshakesConfig) (h *Handshakes, try func(from string) error) {
		log.Reset()
		reg = prometheus.NewRegistry()
		cfg.Logger, cfg.Metrics = slog.New(slog.NewTextHandler(&log, nil)), reg
		h = NewHandshakes(cfg)
		return h, func(from string) error { return h.wait(t.Context(), caller{from: from}, patience) }
	}
	count := func(what string) float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "parley_handshakes_"+what {
				m := f.GetMetric()[0]
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		t.Fatalf("no metric for %s", what)
		return 0
	}
	t.Run("of one address", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, try := begin(t, HandshakesConfig{PerSecond: 2, PerIP: 1})
			let := func(from string, tries int) (n int) {
				for range tries {
					if try(from) == nil {
						n++
					}
				}
				return n
			}
			start := time.Now()
			if n := let("10.0.0.1", 100); n != 5 {
				t.Errorf("%d of 100 at once, want 5", n)
			}
			if n := count("refused_total"); n != 95 {
				t.Errorf("%v are counted as refused, want 95", n)
			}
			if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "more than 1 handshakes a second from this address") {
				t.Errorf("%d lines in the log, want one: %s", n, log.String())
			}
			if n := let("2001:db8::1", 3) + let("2001:db8::2", 3); n != 5 {
				t.Errorf("%d of one network of IPv6, want 5", n)
			}
			if d := time.Since(start); d != 0 {
				t.Errorf("somebody waited for %v", d)
			}
			time.Sleep(2 * time.Second)
			if n := let("10.0.0.1", 100); n != 2 {
				t.Errorf("%d two seconds later, want 2", n)
			}
		})
	})
	t.Run("of all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, try := begin(t, HandshakesConfig{PerSecond: 10})
			start := time.Now()
			for i := range 60 {
				if err := try("10.0.0.1"); err != nil {
					t.Fatalf("number %d: %v", i, err)
				}
			}
			if d := time.Since(start); d != time.Second {
				t.Errorf("60 took %v, want 1 s", d)
			}
			errs := make(chan error, 20)
			for range cap(errs) { // ten of them find their turn in time
				go func() { errs <- try("10.0.0.1") }()
			}
			synctest.Wait()
			if n := count("waiting"); n != 10 {
				t.Errorf("%v are counted as waiting, want 10", n)
			}
			refused := 0
			for range cap(errs) {
				if <-errs != nil {
					refused++
				}
			}
			if n := count("refused_total"); refused != 10 || n != 10 {
				t.Errorf("%d are refused, %v counted, want 10", refused, n)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := h.wait(ctx, caller{from: "10.0.0.1"}, patience); !errors.Is(err, context.Canceled) {
				t.Errorf("when the server stops: %v", err)
			}
			if n := count("refused_total"); n != 10 {
				t.Errorf("that is counted as refused")
			}
		})
	})
	t.Run("without limits", func(t *testing.T) {
		_, try := begin(t, HandshakesConfig{})
		for range 1000 {
			if err := try("10.0.0.1"); err != nil {
				t.Fatal(err)
			}
		}
	})
}
