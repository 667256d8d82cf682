// Package server is the processes of the peers. The program that compares runs
// itself again as their servers, so that all of them are processes of their own,
// started, watched and killed in the same way by internal/local: it takes the flags
// that `parley serve` takes, as far as they mean something to others, and answers
// /readyz.
package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Kind says which server a process is.
type Kind string

// The kinds.
const (
	NATS Kind = "nats"
	Etcd Kind = "etcd"

	rabbitMQ      Kind = "rabbitmq"
	rabbitMQReady Kind = "rabbitmq-ready" // answers /readyz for the former
)

// Args are the flags that make a process a server of that kind.
func Args(kind Kind, syncAlways bool) []string {
	return []string{"--kind", string(kind), fmt.Sprintf("--sync-always=%t", syncAlways)}
}

// config is what the flags say.
type config struct {
	kind       Kind
	syncAlways bool // NATS only
	name, data string
	client     string // host:port
	peer       string
	ops        string
	members    []member

	epmd, cookie string // RabbitMQ only
}

type member struct{ name, addr string }

// running is a server that has been started.
type running interface {
	ready() error
	failed() <-chan error // receives what ends the server
	stop()
}

// Main is what a process does whose arguments begin with "certs" or "serve". It
// returns the exit status.
func Main(args []string) int {
	if args[0] == "certs" { // the peers' links are in plain text
		return 0
	}
	if err := serve(args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "parley: %v\n", err) // the mark by which internal/local finds it
		return 1
	}
	return 0
}

func parse(args []string) (config, error) {
	var cfg config
	var kind, members string
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	f.StringVar(&kind, "kind", "", "which server")
	f.BoolVar(&cfg.syncAlways, "sync-always", false, "sync each write")
	f.StringVar(&cfg.name, "name", "", "name of the node")
	f.StringVar(&cfg.data, "data", "", "data directory")
	f.StringVar(&cfg.client, "client-listen", "", "address for clients")
	f.StringVar(&cfg.peer, "peer-listen", "", "address for members")
	f.StringVar(&cfg.ops, "ops-listen", "", "address for /readyz")
	f.StringVar(&cfg.epmd, "epmd", "", "port of the Erlang port mapper")
	f.StringVar(&cfg.cookie, "cookie", "", "Erlang cookie")
	f.StringVar(&members, "members", "", "name=host:port of all members")
	_ = f.String("certs", "", "not used")
	_ = f.Bool("client-plaintext", true, "not used")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	cfg.kind = Kind(kind)
	for _, m := range strings.Split(members, ",") {
		name, addr, ok := strings.Cut(m, "=")
		if !ok {
			return cfg, fmt.Errorf("--members: %q: want name=host:port", m)
		}
		cfg.members = append(cfg.members, member{name, addr})
	}
	return cfg, nil
}

func serve(args []string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.data, 0o700); err != nil {
		return err
	}
	var r running
	switch cfg.kind {
	case NATS:
		r, err = startNATS(cfg)
	case Etcd:
		r, err = startEtcd(cfg)
	case rabbitMQ:
		return execRabbitMQ(cfg)
	case rabbitMQReady:
		r = rabbitWatch{addr: cfg.client, parent: os.Getppid()}
	default:
		err = fmt.Errorf("--kind %q is unknown", cfg.kind)
	}
	if err != nil {
		return err
	}
	defer r.stop()
	ln, err := listen(ctx, cfg.ops)
	if err != nil {
		return err
	}
	pages := &http.Server{Handler: readyz(r), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = pages.Serve(ln)
	}()
	defer func() {
		_ = pages.Close()
		<-served
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-r.failed():
		return err
	}
}

// listen listens. What answered for a killed server may take a moment to end.
func listen(ctx context.Context, addr string) (ln net.Listener, err error) {
	for try := 0; try < 100; try++ {
		if ln, err = net.Listen("tcp", addr); err == nil || !errors.Is(err, syscall.EADDRINUSE) || ctx.Err() != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return ln, err
}

func readyz(r running) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := r.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
