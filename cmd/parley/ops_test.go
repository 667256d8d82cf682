package main

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/parley-chat/parley/fsm"
)

type fakeOpsNode struct{ err error }

func (n *fakeOpsNode) Ready() error                    { return n.err }
func (n *fakeOpsNode) Digest() (uint64, string, error) { return 7, "abc", n.err }

func TestOps(t *testing.T) {
	o, err := listenOps("127.0.0.1:0", false, newRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer o.close(t.Context())
	check := func(path string, status int, text string) {
		t.Helper()
		res, err := http.Get("http://" + o.ln.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != status || !strings.Contains(string(body), text) {
			t.Errorf("%s: %s %q, want %d %q", path, res.Status, body, status, text)
		}
	}
	health := func(want int) {
		t.Helper()
		var out, errs strings.Builder
		err := run(t.Context(), []string{"health", "--ops-listen", o.ln.Addr().String()}, nil, &out, &errs)
		if exitCode(err) != want {
			t.Errorf("parley health: exit status %d, want %d: %s%s", exitCode(err), want, out.String(), errs.String())
		}
	}
	check("/healthz", 200, "ok")
	check("/metrics", 200, "parley_build_info{")
	check("/metrics", 200, "go_goroutines ")
	check("/readyz", 503, "starting")
	check("/digest", 503, "starting")
	check("/debug/pprof/", 404, "")
	health(exitNoAnswer)

	fake := &fakeOpsNode{err: errors.New("no leader")}
	var node opsNode = fake
	o.node.Store(&node)
	check("/readyz", 503, "no leader")
	check("/digest", 500, "no leader")
	fake.err = nil
	check("/readyz", 200, "ready")
	check("/digest", 200, `{"digest":"abc","index":7}`)
	health(exitDone)

	o.ended.Store(true)
	check("/readyz", 503, "stopping")
	check("/healthz", 200, "ok")
	health(exitNoAnswer)
}

func TestSettings(t *testing.T) {
	parse := func(args ...string) (*settings, error) {
		s := &settings{}
		cmd := newServeCmd(&app{})
		cmd.ResetFlags()
		s.add(cmd.Flags())
		base := []string{"--name", "n1", "--data", "d", "--certs", "c", "--members", "n2=h2:7000,n1=h1:7000"}
		if err := cmd.ParseFlags(append(base, args...)); err != nil {
			return nil, err
		}
		return s, s.check()
	}
	s, err := parse("--client-listen", "192.0.2.1:3000")
	if err != nil {
		t.Fatal(err)
	}
	if s.clientAdvertise != "192.0.2.1:3000" || s.peerAdvertise != "h1:7000" || strings.Join(s.names, " ") != "n1 n2" {
		t.Errorf("client %s, peer %s, members %v", s.clientAdvertise, s.peerAdvertise, s.names)
	}
	s, err = parse("--client-listen", ":4000", "--peer-advertise", "other:1")
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(s.clientAdvertise, ":") || !strings.HasSuffix(s.clientAdvertise, ":4000") || s.peerAdvertise != "other:1" {
		t.Errorf("client %s, peer %s", s.clientAdvertise, s.peerAdvertise)
	}
	if l, want := s.state.limits(), (fsm.Limits{}).WithDefaults(); l != want {
		t.Errorf("limits %+v, want the defaults %+v", l, want)
	}
	for _, args := range [][]string{
		{"--max-body", "128KiB"}, {"--max-body", "2MiB", "--max-frame", "4MiB"}, {"--max-frame", "1KiB"},
		{"--max-conns", "0"}, {"--heartbeat-timeout", "0s"}, {"--client-advertise", "x"},
	} {
		if _, err := parse(args...); exitCode(err) != exitUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := parse("--max-body", "128KiB", "--max-frame", "256KiB"); err != nil {
		t.Error(err)
	}
}
