package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley/certs"
)

// forged is a certificate that the authority in dir signed, after edit.
func forged(t testing.TB, dir string, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem"))
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "n2"},
		DNSNames:    []string{"n2"},
		NotBefore:   time.Now().Add(-2 * time.Hour),
		NotAfter:    time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	edit(c)
	der, err := x509.CreateCertificate(rand.Reader, c, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// badCerts are certificates that prove nothing, or not that the bearer is n2.
func badCerts(t testing.TB, dir string) map[string][]tls.Certificate {
	one := func(dir string, edit func(*x509.Certificate)) []tls.Certificate {
		return []tls.Certificate{forged(t, dir, edit)}
	}
	return map[string][]tls.Certificate{
		"none":            nil,
		"expired":         one(dir, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"not yet valid":   one(dir, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
		"other authority": one(authority(t), func(*x509.Certificate) {}),
		"for clients":     one(dir, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }),
		"for servers":     one(dir, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }),
		"no common name":  one(dir, func(c *x509.Certificate) { c.Subject.CommonName = "" }),
		"other name":      one(dir, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "n3", []string{"n3"} }),
		"name as host":    one(dir, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "n3", []string{"n2", "n3"} }),
	}
}

// rpc is what Raft's transport would send: the bytes of a real RPC.
func rpc(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(&buf, b)
	}()
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: oneConn{a}, Timeout: 100 * time.Millisecond, MaxRPCsInFlight: 1,
		Logger: hclogger((&logs{}).logger()),
	})
	var resp raft.RequestVoteResponse
	if err := trans.RequestVote("id", "n", &raft.RequestVoteRequest{Term: 7}, &resp); err == nil {
		t.Fatal("the pipe granted its vote")
	}
	a.Close()
	trans.Close()
	<-done
	if buf.Len() < 10 {
		t.Fatalf("only %d bytes of Raft", buf.Len())
	}
	return buf.Bytes()
}

// oneConn is a raft.StreamLayer that dials one connection.
type oneConn struct{ c net.Conn }

func (o oneConn) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) { return o.c, nil }
func (o oneConn) Accept() (net.Conn, error)                                { return nil, net.ErrClosed }
func (o oneConn) Close() error                                             { return nil }
func (o oneConn) Addr() net.Addr                                           { return nodeAddr("x") }

// knock connects to n as cfg says, sends everything at once and reads until n
// closes the connection.
func knock(t testing.TB, n *Network, cfg *tls.Config, send []byte) {
	t.Helper()
	raw, err := net.Dial("tcp", n.Addr().String())
	must(t, err)
	defer raw.Close()
	var c net.Conn = raw
	if cfg != nil {
		c = tls.Client(raw, cfg)
	}
	c.Write(send) // may fail: whether it was let in is seen at the other end
	drainUntilClosed(t, c)
}

// A connection that does not prove to be from a member reaches neither Raft nor
// the handler, is closed, and leaves one line in the log.
func TestStrangersAreRefused(t *testing.T) {
	dir := authority(t, "n1", "n2")
	raftBytes := rpc(t)
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	must(t, err)
	pool.AppendCertsFromPEM(pem)
	as := func(c ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: pool, ServerName: "n1", Certificates: c}
	}
	good := forged(t, dir, func(*x509.Certificate) {})
	intro := func(p preface) []byte {
		var b bytes.Buffer
		must(t, p.write(&b))
		return append(b.Bytes(), raftBytes...)
	}
	hello := intro(preface{kind: kindRaft, from: "n2"})

	type knocker struct {
		cfg  *tls.Config
		send []byte
		want string // in the log line
	}
	tls12 := as(good)
	tls12.MaxVersion = tls.VersionTLS12
	newer := bytes.Clone(hello)
	newer[len(magic)] = version + 1
	knockers := map[string]knocker{
		"clear text":       {nil, append([]byte("create u2\n"), raftBytes...), "not look like a TLS handshake"},
		"TLS 1.2":          {tls12, hello, "version"},
		"no preface":       {as(good), append(bytes.Clone(raftBytes), make([]byte, 20)...), "not that of a Parley node"},
		"newer version":    {as(good), newer, "version 2"},
		"other group":      {as(good), intro(preface{group: 5, kind: kindRaft, from: "n2"}), "group 5"},
		"unknown purpose":  {as(good), intro(preface{kind: 77, from: "n2"}), "kind 77"},
		"claims other":     {as(good), intro(preface{kind: kindRaft, from: "n3"}), "calls itself"},
		"our own name":     {as(forged(t, dir, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "n1", []string{"n1"} })), intro(preface{kind: kindRaft, from: "n1"}), "name of this node"},
		"nothing claimed":  {as(good), intro(preface{kind: kindRaft}), "calls itself"},
		"forward, unnamed": {as(good), intro(preface{kind: kindForward, from: "n3"}), "calls itself"},
	}
	for name, c := range badCerts(t, dir) {
		knockers["certificate: "+name] = knocker{as(c...), hello, "certificate"}
	}
	for name, k := range knockers {
		t.Run(name, func(t *testing.T) {
			n1, log := listen(t, dir, "n1")
			rec := &recorder{}
			n1.Serve(Handler{Service: rec})
			count := answerRaft(t, n1)
			knock(t, n1, k.cfg, k.send)
			eventually(t, "a line in the log", func() bool { return len(log.lines("level=WARN")) > 0 })
			if lines := log.lines("level=WARN"); len(lines) != 1 || !strings.Contains(lines[0], k.want) {
				t.Errorf("logged %q, want one line with %q", lines, k.want)
			}
			must(t, n1.Close())
			if count() != 0 || len(rec.started()) != 0 {
				t.Error("what it sent was decoded")
			}
		})
	}

	t.Run("a member is let in", func(t *testing.T) { // or all of the above would mean nothing
		n1, log := listen(t, dir, "n1")
		count := answerRaft(t, n1)
		raw, err := net.Dial("tcp", n1.Addr().String())
		must(t, err)
		defer raw.Close()
		c := tls.Client(raw, as(good))
		_, err = c.Write(hello)
		must(t, err)
		must(t, readVerdict(c))
		eventually(t, "the RPC arrives", func() bool { return count() == 1 })
		if lines := log.lines("level=WARN"); len(lines) != 0 {
			t.Errorf("logged %q", lines)
		}
	})
}

// Whoever answers at a member's address without that member's certificate learns
// nothing: not even the preface is sent.
func TestImpostorsAreNotSpokenTo(t *testing.T) {
	dir := authority(t, "n1", "n2")
	impostors := badCerts(t, dir)
	delete(impostors, "none") // cannot even begin
	for name, pair := range impostors {
		t.Run(name, func(t *testing.T) {
			heard, addr := impostor(t, &tls.Config{Certificates: pair, ClientAuth: tls.RequestClientCert})
			n1, log := listen(t, dir, "n1", func(c *Config) { c.Addrs = map[string]string{"n2": addr} })
			if err := vote(n1, "n2"); err == nil || !strings.Contains(err.Error(), "certificate") {
				t.Errorf("Raft: %v, want an error about the certificate", err)
			}
			if _, err := n1.Peer("n2").Call(t.Context(), "m", []byte("secret")); err == nil {
				t.Error("a call was answered")
			}
			eventually(t, "a line in the log", func() bool { return len(log.lines("level=WARN")) > 0 })
			must(t, n1.Close())
			if got := heard(); len(got) != 0 {
				t.Errorf("it was told %q", got)
			}
			if lines := log.lines("level=WARN"); len(lines) != 1 {
				t.Errorf("logged %q, want one line", lines)
			}
		})
	}
	t.Run("the member is spoken to", func(t *testing.T) {
		heard, addr := impostor(t, &tls.Config{
			Certificates: []tls.Certificate{forged(t, dir, func(*x509.Certificate) {})},
			ClientAuth:   tls.RequestClientCert,
		})
		n1, _ := listen(t, dir, "n1", func(c *Config) { c.Addrs = map[string]string{"n2": addr} })
		eventually(t, "a preface", func() bool { return bytes.HasPrefix(heard(), []byte(magic)) })
		must(t, n1.Close())
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		heard, addr := impostor(t, &tls.Config{
			Certificates: []tls.Certificate{forged(t, dir, func(*x509.Certificate) {})},
			MaxVersion:   tls.VersionTLS12,
		})
		n1, _ := listen(t, dir, "n1", func(c *Config) { c.Addrs = map[string]string{"n2": addr} })
		if err := vote(n1, "n2"); err == nil || !strings.Contains(err.Error(), "version") {
			t.Errorf("Raft: %v, want an error about the version", err)
		}
		must(t, n1.Close())
		if got := heard(); len(got) != 0 {
			t.Errorf("it was told %q", got)
		}
	})
}

// impostor is a TLS server that notes what it is told.
func impostor(t testing.TB, cfg *tls.Config) (heard func() []byte, addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	log := &logs{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(10 * time.Second))
				io.Copy(log, tls.Server(nc, cfg)) // until the caller hangs up
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return func() []byte {
		log.mu.Lock()
		defer log.mu.Unlock()
		return bytes.Clone(log.buf.Bytes())
	}, ln.Addr().String()
}

// All nodes move to another authority, one after the other, while they run.
func TestAuthorityIsReplacedWithoutRestart(t *testing.T) {
	base, next := authority(t, "n1", "n2"), authority(t, "n1", "n2")
	n1, _ := listen(t, base, "n1")
	n2, _ := listen(t, base, "n2")
	introduced(n1, n2)
	answerRaft(t, n1)
	answerRaft(t, n2)
	check := func(step string) {
		t.Helper()
		n1.raft.CloseStreams() // so that each vote takes a new connection
		n2.raft.CloseStreams()
		if err := errors.Join(vote(n1, "n2"), vote(n2, "n1")); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	check("at first")
	old, fresh := read(t, certs.Paths(base, "n1").CA), read(t, certs.Paths(next, "n1").CA)
	write(t, certs.Paths(base, "n1").CA, append(bytes.Clone(old), fresh...))
	check("both authorities trusted")
	for _, name := range []string{"n1", "n2"} {
		from, to := certs.Paths(next, name), certs.Paths(base, name)
		write(t, to.Key, read(t, from.Key))
		write(t, to.Cert, read(t, from.Cert))
		check(name + " has a new certificate")
	}
	write(t, certs.Paths(base, "n1").CA, fresh)
	check("the old authority is gone")
	block, _ := pem.Decode(read(t, certs.Paths(next, "n1").Cert))
	if !bytes.Equal(n1.source.Leaf().Raw, block.Bytes) {
		t.Error("n1 still uses its old certificate")
	}
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	return data
}

// write replaces a file.
func write(t testing.TB, file string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(file+".new", data, 0o600))
	must(t, os.Rename(file+".new", file))
}
