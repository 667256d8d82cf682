package certs

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// Role is what a certificate is for.
type Role string

// The roles.
const (
	RoleAuthority Role = "authority" // signs the others
	RoleNode      Role = "node"      // is a member of the cluster, and serves clients
	RoleAdmin     Role = "admin"     // may administer the cluster
	RoleClient    Role = "client"    // is known by name, and may do nothing more than others
	RoleUnknown   Role = ""          // was not made here
)

// adminUnit is the organizational unit that gives a client's certificate the
// role of an administrator.
const adminUnit = "parley-admin"

// RoleOf returns what a certificate is for. It does not verify its chain.
func RoleOf(cert *x509.Certificate) Role {
	if cert.IsCA {
		return RoleAuthority
	}
	if _, err := NodeName(cert); err == nil {
		return RoleNode
	}
	switch {
	case CheckName(cert.Subject.CommonName) != nil || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth:
		return RoleUnknown
	case slices.Contains(cert.Subject.OrganizationalUnit, adminUnit):
		return RoleAdmin
	}
	return RoleClient
}

// Due reports whether a certificate has less than 30 days left and should be
// renewed.
func Due(cert *x509.Certificate) bool { return time.Until(cert.NotAfter) < renewBefore }

// IssueClient makes a certificate with which an operator or a program proves its
// name to a node, and a key if it has none; an administrator's if admin. It is
// good for no node, and is kept or replaced by the rules of [Issue].
func IssueClient(dir, name string, admin bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	ca, caKey, err := readCA(dir)
	if err != nil {
		return err
	}
	role := RoleClient
	subject := pkix.Name{CommonName: name, Organization: []string{"Parley"}}
	if admin {
		role, subject.OrganizationalUnit = RoleAdmin, []string{adminUnit}
	}
	f := Paths(dir, name)
	old, err := readCert(f.Cert)
	if err == nil && RoleOf(old) != role {
		return fmt.Errorf("%s is a certificate with the role %s: choose another name, or remove it", f.Cert, RoleOf(old))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := keepOrMakeKey(f.Key)
	if err != nil {
		return err
	}
	if old != nil && fresh(old, ca, key) {
		return nil
	}
	return sign(f.Cert, &x509.Certificate{
		Subject: subject, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, key, caKey)
}

// Renew replaces a certificate by one that says the same, for the same key, and
// is good from now on, however long the old one still was.
func Renew(dir, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	ca, caKey, err := readCA(dir)
	if err != nil {
		return err
	}
	f := Paths(dir, name)
	old, err := readCert(f.Cert)
	if err != nil {
		return err
	}
	if RoleOf(old) == RoleUnknown || RoleOf(old) == RoleAuthority {
		return fmt.Errorf("%s is no certificate of a node or client: it cannot be renewed", f.Cert)
	}
	key, err := readKey(f.Key)
	if err != nil {
		return err
	}
	return sign(f.Cert, &x509.Certificate{
		Subject: old.Subject, ExtKeyUsage: old.ExtKeyUsage, DNSNames: old.DNSNames, IPAddresses: old.IPAddresses,
	}, ca, key, caKey)
}

// Admin returns the configuration of a server for administrators: TLS 1.3, and a
// handshake succeeds only with an administrator's certificate from a trusted
// authority.
func (s *Source) Admin() *tls.Config {
	return s.demand(func(state tls.ConnectionState) error {
		_, err := AdminName(state)
		return err
	})
}

// AdminName returns the name of the administrator at the other end of a
// connection, or why it is none.
func AdminName(state tls.ConnectionState) (string, error) {
	if len(state.PeerCertificates) == 0 {
		return "", errors.New("no certificate")
	}
	cert := state.PeerCertificates[0]
	if role := RoleOf(cert); role != RoleAdmin {
		return "", fmt.Errorf("not an administrator's certificate: that of %q has the role %q", cert.Subject.CommonName, role)
	}
	return cert.Subject.CommonName, nil
}

// DialAs returns the configuration of a client that shows the certificate in
// files and trusts the authorities in them.
func DialAs(files Files) (*tls.Config, error) {
	m, err := read(files)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.pair}, RootCAs: m.pool}, nil
}
