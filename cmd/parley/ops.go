package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// errStarting is why a node is not ready at first.
var errStarting = errors.New("starting")

// errStopping is why a node is not ready in the end, errDrained why it is not when
// an administrator has said so.
var (
	errStopping = errors.New("stopping")
	errDrained  = errors.New("drained")
)

// newRegistry returns a registry with what every Go program has to tell.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	v := buildVersion()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "parley_build_info", Help: "1, with the version of the program.",
		ConstLabels: prometheus.Labels{"version": v.Version, "revision": v.Revision, "go": v.Go},
	})
	info.Set(1)
	reg.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// opsNode is what the ops pages show of a node.
type opsNode interface {
	Ready() error
	Digest() (index uint64, sum string, err error)
}

// ops is the node's page for operators: /metrics, /healthz, /readyz, /digest.
// It is there before the node is and until the process ends.
type ops struct {
	ln      net.Listener
	server  *http.Server
	served  chan struct{} // closed when the serving goroutine has ended
	node    atomic.Pointer[opsNode]
	ended   atomic.Bool
	drained atomic.Bool
}

// listenOps opens the listener and serves it. The goroutine ends with close.
func listenOps(addr string, withProfiles bool, reg *prometheus.Registry, log *slog.Logger) (*ops, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("ops listener: %w", err)
	}
	o := &ops{ln: ln, served: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", o.readyz)
	mux.HandleFunc("GET /digest", o.digest)
	if withProfiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	o.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	go func() {
		defer close(o.served)
		if err := o.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the ops listener failed", "err", err)
		}
	}()
	return o, nil
}

// ready says why the node is not ready, nil if it is.
func (o *ops) ready() error {
	n := o.node.Load()
	switch {
	case o.ended.Load():
		return errStopping
	case o.drained.Load():
		return errDrained
	case n == nil:
		return errStarting
	}
	return (*n).Ready()
}

func (o *ops) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := o.ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// digest shows a checksum of the whole state, which takes a while to compute.
func (o *ops) digest(w http.ResponseWriter, _ *http.Request) {
	n := o.node.Load()
	if n == nil {
		http.Error(w, errStarting.Error(), http.StatusServiceUnavailable)
		return
	}
	index, sum, err := (*n).Digest()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"index": index, "digest": sum})
}

// close ends the listener after the requests under way.
func (o *ops) close(ctx context.Context) {
	if o.server.Shutdown(ctx) != nil {
		o.server.Close()
	}
	<-o.served
}
