package certs_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-chat/parley/certs"
)

// authority makes a directory with an authority and certificates for names.
func authority(t *testing.T, names ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	must(t, certs.Init(dir))
	for _, name := range names {
		must(t, certs.Issue(dir, name, "localhost", "127.0.0.1"))
	}
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// contents is all files of a directory, by name.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	all := make(map[string]string)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		all[e.Name()] = string(data)
	}
	return all
}

func leaf(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	f, err := certs.Load(dir, name)
	must(t, err)
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	must(t, err)
	return pair.Leaf
}

func TestFilesAndModes(t *testing.T) {
	dir := authority(t, "n1")
	info, err := os.Stat(dir)
	must(t, err)
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("directory mode %04o, want 0700", got)
	}
	files := contents(t, dir)
	for _, name := range []string{"ca.pem", "ca-key.pem", "n1.pem", "n1-key.pem"} {
		if files[name] == "" {
			t.Errorf("no file %s", name)
			continue
		}
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s: mode %04o, want 0600", name, got)
		}
	}
	if len(files) != 4 {
		t.Errorf("%d files, want 4", len(files))
	}
}

func TestCertificate(t *testing.T) {
	c := leaf(t, authority(t, "n1"), "n1")
	if name, err := certs.NodeName(c); name != "n1" || err != nil {
		t.Errorf("NodeName = %q, %v", name, err)
	}
	for _, host := range []string{"n1", "localhost", "127.0.0.1"} {
		if err := c.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if err := c.VerifyHostname("n2"); err == nil {
		t.Error("n1's certificate is good for n2")
	}
}

func TestRepeatingKeepsEverything(t *testing.T) {
	dir := authority(t, "n1")
	before := contents(t, dir)
	must(t, certs.Init(dir))
	must(t, certs.Issue(dir, "n1", "localhost"))
	must(t, certs.Issue(dir, "n1"))
	for name, data := range contents(t, dir) {
		if before[name] != data {
			t.Errorf("%s changed", name)
		}
	}
}

func TestIssueAgainForMoreHosts(t *testing.T) {
	dir := authority(t, "n1")
	before := contents(t, dir)
	must(t, certs.Issue(dir, "n1", "chat.example.org", "10.0.0.1"))
	after := contents(t, dir)
	if before["n1-key.pem"] != after["n1-key.pem"] {
		t.Error("the key changed")
	}
	c := leaf(t, dir, "n1")
	for _, host := range []string{"n1", "chat.example.org", "10.0.0.1"} {
		if err := c.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
}

// A certificate of an authority that is no longer there is replaced, and keeps its hosts.
func TestIssueAgainUnderNewAuthority(t *testing.T) {
	dir := authority(t, "n1")
	for _, f := range []string{"ca.pem", "ca-key.pem"} {
		must(t, os.Remove(filepath.Join(dir, f)))
	}
	must(t, certs.Init(dir))
	if _, err := certs.Load(dir, "n1"); err == nil {
		t.Error("a certificate of another authority was loaded")
	}
	must(t, certs.Issue(dir, "n1"))
	must(t, leaf(t, dir, "n1").VerifyHostname("localhost"))
}

func TestAuthorityKeyKeptElsewhere(t *testing.T) {
	dir := authority(t, "n1")
	must(t, os.Remove(filepath.Join(dir, "ca-key.pem")))
	must(t, certs.Init(dir))
	if _, err := os.Stat(filepath.Join(dir, "ca-key.pem")); err == nil {
		t.Error("Init made a key that does not belong to the certificate")
	}
	if _, err := certs.Load(dir, "n1"); err != nil {
		t.Errorf("a node needs the authority's key: %v", err)
	}
	if err := certs.Issue(dir, "n2"); err == nil {
		t.Error("issued without the authority's key")
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		want  string
	}{
		{"a key that the group can read", func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Join(dir, "n1-key.pem"), 0o640))
		}, "chmod 600"},
		{"a key that all can read", func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Join(dir, "n1-key.pem"), 0o604))
		}, "chmod 600"},
		{"another node's certificate", func(t *testing.T, dir string) {
			must(t, certs.Issue(dir, "n2", "n1"))
			for _, end := range []string{".pem", "-key.pem"} {
				must(t, os.Rename(filepath.Join(dir, "n2"+end), filepath.Join(dir, "n1"+end)))
			}
		}, "certificate of n2"},
		{"another node's key", func(t *testing.T, dir string) {
			must(t, certs.Issue(dir, "n2"))
			must(t, os.Rename(filepath.Join(dir, "n2-key.pem"), filepath.Join(dir, "n1-key.pem")))
		}, "private key does not match"},
		{"an empty authority file", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "ca.pem"), nil, 0o600))
		}, "no certificate"},
		{"no certificate", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "n1.pem")))
		}, "n1.pem"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := authority(t, "n1")
			test.spoil(t, dir)
			_, err := certs.Load(dir, "n1")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Load: %v; want an error with %q", err, test.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"n1", "a", "node-7", "0", strings.Repeat("x", 63)} {
		if err := certs.CheckName(name); err != nil {
			t.Error(err)
		}
	}
	dir := authority(t)
	for _, name := range []string{"", "N1", "n.1", "n1-", "-n1", "ca", "n1-key", "a b", "../n1", "ä", strings.Repeat("x", 64)} {
		if certs.Issue(dir, name) == nil {
			t.Errorf("issued a certificate for %q", name)
		}
	}
	for _, host := range []string{"", "host:80", "http://x", "a,b"} {
		if certs.Issue(dir, "n1", host) == nil {
			t.Errorf("issued a certificate for host %q", host)
		}
	}
}

// shake makes a handshake over loopback and returns what each end says of it.
func shake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			defer nc.Close()
			s := tls.Server(nc, server)
			if err = s.Handshake(); err == nil {
				_, err = s.Write([]byte("x"))
			}
		}
		done <- err
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	defer nc.Close()
	_, clientErr = tls.Client(nc, client).Read(make([]byte, 1)) // TLS 1.3: a refusal comes after the handshake
	return <-done, clientErr
}

func source(t *testing.T, dir, name string) *certs.Source {
	t.Helper()
	s, err := certs.NewSource(certs.Paths(dir, name), nil)
	must(t, err)
	return s
}

func TestNodesShakeHands(t *testing.T) {
	dir := authority(t, "n1", "n2", "n3")
	must(t, certs.Issue(authorityWith(t, dir), "n2")) // another authority's n2 is in no one's way
	n1, n2 := source(t, dir, "n1"), source(t, dir, "n2")
	if s, c := shake(t, n1.Accept(), n2.Dial("n1")); s != nil || c != nil {
		t.Errorf("server: %v, client: %v", s, c)
	}
	if s, c := shake(t, n1.Accept(), n2.Dial("n3")); s == nil || c == nil {
		t.Error("n1 passed for n3")
	}
	if s, c := shake(t, n1.Accept(), n2.Dial("localhost")); s == nil || c == nil {
		t.Error("n1 passed for one of its hosts")
	}
}

// What looks like a node's certificate to x509 alone is not enough for Accept.
func TestAcceptWantsNodes(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1 := source(t, dir, "n1")
	dial := source(t, dir, "n2").Dial("n1")
	for name, pair := range map[string][]tls.Certificate{
		"none":              nil,
		"a client's":        {forClients(t, dir)},
		"the authority's":   {pair(t, dir, "ca.pem", "ca-key.pem")},
		"another cluster's": {pair(t, authority(t, "n2"), "n2.pem", "n2-key.pem")},
	} {
		dial.Certificates = pair
		if s, c := shake(t, n1.Accept(), dial); s == nil || c == nil {
			t.Errorf("%s: server: %v, client: %v", name, s, c)
		}
	}
}

func pair(t *testing.T, dir, cert, key string) tls.Certificate {
	t.Helper()
	p, err := tls.LoadX509KeyPair(filepath.Join(dir, cert), filepath.Join(dir, key))
	must(t, err)
	return p
}

// forClients is a certificate that the authority made for a client called n2.
func forClients(t *testing.T, dir string) tls.Certificate {
	t.Helper()
	ca, n2 := pair(t, dir, "ca.pem", "ca-key.pem"), pair(t, dir, "n2.pem", "n2-key.pem")
	template := *n2.Leaf
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.Leaf, n2.Leaf.PublicKey, ca.PrivateKey)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: n2.PrivateKey}
}

// authorityWith makes another authority that nobody in dir trusts.
func authorityWith(t *testing.T, dir string) string {
	other := authority(t)
	a, b := contents(t, dir), contents(t, other)
	if a["ca.pem"] == b["ca.pem"] {
		t.Fatal("two authorities are the same")
	}
	return other
}

func TestServerForClients(t *testing.T) {
	dir := authority(t, "n1")
	client, err := certs.ClientConfig(filepath.Join(dir, "ca.pem"))
	must(t, err)
	client.ServerName = "localhost"
	server := source(t, dir, "n1").Server()
	if s, c := shake(t, server, client); s != nil || c != nil {
		t.Errorf("server: %v, client: %v", s, c)
	}
	client.ServerName = "elsewhere"
	if _, c := shake(t, server, client); c == nil {
		t.Error("the client accepted a certificate for another host")
	}
	system, err := certs.ClientConfig("")
	must(t, err)
	system.ServerName = "localhost"
	if _, c := shake(t, server, system); c == nil {
		t.Error("a client that trusts the system's authorities accepted a private one")
	}
	if _, err := certs.ClientConfig(filepath.Join(dir, "n1-key.pem")); err == nil {
		t.Error("a key passed for an authority")
	}
}

func TestKeysAreNotInCertificates(t *testing.T) {
	files := contents(t, authority(t, "n1"))
	for _, name := range []string{"ca.pem", "n1.pem"} {
		if bytes.Contains([]byte(files[name]), []byte("PRIVATE")) {
			t.Errorf("%s contains a private key", name)
		}
	}
}
