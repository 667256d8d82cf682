package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/certs"
)

// nasty is what somebody may put into a name, a body or an error to play with
// the terminal of who reads it.
const nasty = "\x1b]0;owned\x07\x1b[2J\r\u009b31m\u202etxt.exe\u2066\u200b\U000e0001\n\"level=ERROR\u2028"

// TestLogIsHarmless: whatever others put into the log, no line holds what moves a
// cursor or turns text around, and nobody else's text begins a line.
func TestLogIsHarmless(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log, err := (&settings{logLevel: "debug", logFormat: format}).logger(&app{stderr: &out})
		if err != nil {
			t.Fatal(err)
		}
		log.Warn("a message "+nasty, "name", nasty, "err", errors.New(nasty), nasty, "key", slog.Group(nasty, "inner", nasty))
		log.With("from", nasty).WithGroup(nasty).Info("with", "bytes", []byte(nasty), "any", map[string]string{nasty: nasty})
		if lines := strings.Count(out.String(), "\n"); lines != 2 {
			t.Errorf("%s: %d lines for two records:\n%q", format, lines, out.String())
		}
		for _, r := range out.String() {
			if treacherous(r) && r != '\n' {
				t.Errorf("%s: %q is in the log: %q", format, r, out.String())
			}
		}
		if format == "json" {
			var record struct{ Name string }
			if err := json.NewDecoder(&out).Decode(&record); err != nil || record.Name != nasty {
				t.Errorf("the record says %q, %v", record.Name, err)
			}
		}
	}
}

// TestPlaintextIsWarnedOf: at every start, wherever others can reach the port.
func TestPlaintextIsWarnedOf(t *testing.T) {
	for listen, want := range map[string]bool{
		":3000": true, "0.0.0.0:3000": true, "192.0.2.1:3000": true, "[::]:3000": true, "chat.example:3000": true,
		"127.0.0.1:3000": false, "127.8.8.8:3000": false, "[::1]:3000": false, "localhost:3000": false,
	} {
		var out bytes.Buffer
		warnPlaintext(slog.New(slog.NewTextHandler(&out, nil)), listen)
		if got := strings.Contains(out.String(), "clear text"); got != want {
			t.Errorf("%s: warned %v, want %v", listen, got, want)
		}
	}
}

// TestTrust: certificates that are about to end are warned of and measured, until
// they have been renewed.
func TestTrust(t *testing.T) {
	dir := t.TempDir()
	if err := certs.Init(dir); err != nil {
		t.Fatal(err)
	}
	if err := certs.Issue(dir, "n1"); err != nil {
		t.Fatal(err)
	}
	files := certs.Paths(dir, "n1")
	good, err := os.ReadFile(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	shorten(t, dir, "n1", 20*24*time.Hour+time.Hour)
	source, err := certs.NewSource(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	tr := trust{reg: reg}
	tr.add("peer", source)
	if w := tr.warnings(); len(w) != 1 || !strings.Contains(w[0], "in 20 days") || !strings.Contains(w[0], "peer listener") {
		t.Errorf("warnings %q", w)
	}
	if families, err := reg.Gather(); len(families) != 1 || families[0].GetMetric()[0].GetGauge().GetValue() != float64(source.Leaf().NotAfter.Unix()) || err != nil {
		t.Errorf("metrics %v, %v", families, err)
	}
	if err := os.WriteFile(files.Cert+".new", good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(files.Cert+".new", files.Cert); err != nil {
		t.Fatal(err)
	}
	if w := tr.warnings(); len(w) != 0 {
		t.Errorf("after the renewal: %q", w)
	}
}

// TestHangUp: a node does not die of SIGHUP, and looks at its files.
func TestHangUp(t *testing.T) {
	mine := make(chan os.Signal, 1)
	signal.Notify(mine, syscall.SIGHUP) // follow may be late, and the test must not die of it
	defer signal.Stop(mine)
	var out syncBuffer
	tr := trust{reg: prometheus.NewRegistry()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tr.follow(ctx, slog.New(slog.NewTextHandler(&out, nil)))
	}()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(out.String(), "SIGHUP"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("SIGHUP is not noticed")
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// shorten replaces a certificate by one that has only so much time left.
func shorten(t *testing.T, dir, name string, left time.Duration) {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	f := certs.Paths(dir, name)
	own, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	c := *own.Leaf
	c.NotAfter = time.Now().Add(left)
	der, err := x509.CreateCertificate(rand.Reader, &c, ca.Leaf, own.Leaf.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
