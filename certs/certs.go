// Package certs makes the private certificate authority of a Parley cluster and
// the certificates of its nodes, and turns certificate files into TLS
// configurations that follow the files when they are replaced.
//
// A cluster has one directory of certificates per authority:
//
//	ca.pem       the authority's certificate; every node and client needs it.
//	             Others may follow in it while a new authority takes over
//	ca-key.pem   its private key; needed to issue, keep it off the nodes
//	n1.pem       certificate of node n1
//	n1-key.pem   its private key
//	ann.pem      certificate of an operator or a client program, see [IssueClient]
//	ann-key.pem  its private key
//
// A node's certificate says its name twice: as the subject's common name, which
// is what makes it unambiguous, and as a DNS name, which is what TLS verifies.
// Further DNS names and addresses are those under which clients reach the node;
// they give it no other identity. It is good for both ends of a connection. A
// certificate for clients only is not a node's, even from the same authority.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	nodeLife = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate counts as due.
	renewBefore = 30 * 24 * time.Hour
	// backdate makes up for clocks that are behind the issuer's.
	backdate = time.Hour
)

// Files names the files that a node or a server needs.
type Files struct {
	Cert string // its certificate, PEM; intermediates may follow
	Key  string // its private key, PEM; readable by the owner only
	CA   string // certificates of the authorities to trust, PEM; one or, while changing over, several
}

// Paths returns where the files of a node are in a directory of certificates.
func Paths(dir, name string) Files {
	return Files{
		Cert: filepath.Join(dir, name+".pem"),
		Key:  filepath.Join(dir, name+"-key.pem"),
		CA:   filepath.Join(dir, "ca.pem"),
	}
}

// Load returns the files of a node in dir after checking that they belong
// together, are readable by nobody else where that matters, and say name.
func Load(dir, name string) (Files, error) {
	if err := CheckName(name); err != nil {
		return Files{}, err
	}
	f := Paths(dir, name)
	m, err := read(f)
	if err != nil {
		return Files{}, err
	}
	if got, err := NodeName(m.pair.Leaf); err != nil {
		return Files{}, fmt.Errorf("%s: %w", f.Cert, err)
	} else if got != name {
		return Files{}, fmt.Errorf("%s is the certificate of %s, not of %s", f.Cert, got, name)
	}
	return f, nil
}

// CheckName reports whether name can be a node's name: 1 to 63 lower-case
// letters, digits and inner hyphens, as in a DNS label, and none that would make
// its files be taken for others.
func CheckName(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	if name == "" || len(name) > 63 || strings.Trim(name, letters+"-") != "" ||
		name[0] == '-' || name[len(name)-1] == '-' {
		return fmt.Errorf("node name %q: want 1 to 63 of a-z, 0-9 and inner hyphens", name)
	}
	if name == "ca" || strings.HasSuffix(name, "-key") {
		return fmt.Errorf("node name %q is taken by the certificate files", name)
	}
	return nil
}

// NodeName returns the name of the node that a certificate belongs to. It does
// not verify the certificate's chain.
func NodeName(cert *x509.Certificate) (string, error) {
	name := cert.Subject.CommonName
	if err := CheckName(name); err != nil {
		return "", fmt.Errorf("not a node's certificate: common name: %w", err)
	}
	if !slices.Contains(cert.DNSNames, name) {
		return "", fmt.Errorf("not a node's certificate: common name %s is not among its DNS names %v", name, cert.DNSNames)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if !slices.Contains(cert.ExtKeyUsage, use) {
			return "", fmt.Errorf("not a node's certificate: the one of %s is not for both server and client use", name)
		}
	}
	return name, nil
}

// Init makes the directory and a certificate authority in it. What exists is
// kept.
func Init(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory for certificates: %w", err)
	}
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")
	cert, err := readCert(certFile)
	if err == nil {
		if !cert.IsCA {
			return fmt.Errorf("%s is not the certificate of an authority", certFile)
		}
		return nil // its key may be kept elsewhere
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := keepOrMakeKey(keyFile)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Parley CA", Organization: []string{"Parley"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	return writeCert(certFile, template, template, key, key)
}

// Issue makes a certificate for a node, and a key if it has none. hosts are
// further names and addresses under which clients reach the node.
//
// A certificate that exists is kept if the authority in dir issued it, it says
// name and all hosts, and it is good for 30 more days. Otherwise a new one takes
// its place, for the same key and, when no hosts are given, with the hosts of
// the old one; so calling Issue again and again is how certificates are renewed.
func Issue(dir, name string, hosts ...string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	dns, ips, err := splitHosts(name, hosts)
	if err != nil {
		return err
	}
	ca, caKey, err := readCA(dir)
	if err != nil {
		return err
	}
	f := Paths(dir, name)
	key, err := keepOrMakeKey(f.Key)
	if err != nil {
		return err
	}
	old, err := readCert(f.Cert)
	switch {
	case err == nil && RoleOf(old) != RoleNode && RoleOf(old) != RoleUnknown:
		return fmt.Errorf("%s is a certificate with the role %s: choose another name", f.Cert, RoleOf(old))
	case err == nil && stillGood(old, ca, key, name, dns, ips):
		return nil
	case err == nil && len(hosts) == 0 && old.Subject.CommonName == name:
		dns, ips = old.DNSNames, old.IPAddresses
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return sign(f.Cert, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{"Parley"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    dns,
		IPAddresses: ips,
	}, ca, key, caKey)
}

// sign writes the certificate that template describes, good from now for as long
// as certificates are, but no longer than the authority.
func sign(file string, template, ca *x509.Certificate, key, caKey *ecdsa.PrivateKey) error {
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(nodeLife)
	if template.NotAfter.After(ca.NotAfter) {
		template.NotAfter = ca.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return writeCert(file, template, ca, key, caKey)
}

// readCA reads the authority that is to sign.
func readCA(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cert, err := readCert(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, nil, fmt.Errorf("certificate authority: %w", err)
	}
	key, err := readKey(filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		return nil, nil, fmt.Errorf("certificate authority: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("certificate authority: ca.pem and ca-key.pem in %s do not belong together", dir)
	}
	if time.Now().After(cert.NotAfter) {
		return nil, nil, fmt.Errorf("certificate authority: ca.pem in %s expired on %s", dir, cert.NotAfter.Format(time.DateOnly))
	}
	return cert, key, nil
}

// stillGood reports whether a certificate can stay.
func stillGood(cert, ca *x509.Certificate, key *ecdsa.PrivateKey, name string, dns []string, ips []net.IP) bool {
	got, err := NodeName(cert)
	if err != nil || got != name || !fresh(cert, ca, key) {
		return false
	}
	for _, d := range dns {
		if !slices.Contains(cert.DNSNames, d) {
			return false
		}
	}
	for _, ip := range ips {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

// fresh reports whether a certificate is for a key, from an authority, and not
// due yet.
func fresh(cert, ca *x509.Certificate, key *ecdsa.PrivateKey) bool {
	return cert.CheckSignatureFrom(ca) == nil && key.PublicKey.Equal(cert.PublicKey) &&
		(!Due(cert) || !cert.NotAfter.Before(ca.NotAfter))
}

// splitHosts tells addresses from names; the node's own name comes first.
func splitHosts(name string, hosts []string) (dns []string, ips []net.IP, err error) {
	dns = []string{name}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			ips = append(ips, ip)
			continue
		}
		h = strings.ToLower(h)
		if h == "" || len(h) > 253 || strings.ContainsAny(h, ":/, ") {
			return nil, nil, fmt.Errorf("host %q: want a name or an address, without port", h)
		}
		if !slices.Contains(dns, h) {
			dns = append(dns, h)
		}
	}
	return dns, ips, nil
}

// keepOrMakeKey reads a private key, or makes one where there is none.
func keepOrMakeKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := readKey(file)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return key, writeKey(file, key)
}
