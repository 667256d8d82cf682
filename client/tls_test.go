package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// certificate returns one for the given host, and a pool that trusts it.
func certificate(t *testing.T, host string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestTLS(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	_, stranger := certificate(t, "127.0.0.1")
	cl := newCluster(t, 2)
	for _, n := range cl.nodes {
		n.mu.Lock()
		n.tls = &tls.Config{Certificates: []tls.Certificate{cert}}
		n.mu.Unlock()
	}
	c := open(t, Config{Servers: cl.addrs(1), TLS: &tls.Config{RootCAs: pool}})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	cl.lead(1)
	onNode(t, c, "n2")
	cl.nodes[1].kill()
	cl.lead(0)
	must(t, s, parley.CreateUser{Name: "ann"})

	wrong := open(t, Config{Servers: cl.addrs(0), TLS: &tls.Config{RootCAs: stranger}})
	eventually(t, "refused the certificate", func() bool { return wrong.Trouble() != nil })
	if id, _ := wrong.Node(); id != "" {
		t.Errorf("connected to %s with an unknown certificate", id)
	}
}
