package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Source makes TLS configurations from files and follows the files: each
// handshake looks whether one was replaced and, if so, reads them again, so that
// renewed certificates and authorities need no restart. Files that cannot be
// used are reported once and leave the former contents in force.
//
// Safe for concurrent use; it owns no goroutine.
type Source struct {
	files Files
	log   *slog.Logger

	mu     sync.Mutex
	last   *material
	seen   []os.FileInfo // of the files when last was read
	bad    string        // why the newest files are not in use, "" if they are
	warned time.Time     // when the approaching end was last logged
}

// NewSource reads the files for the first time. Files.CA may be "" for a server
// that asks no certificate of its clients. A nil logger discards.
func NewSource(files Files, log *slog.Logger) (*Source, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Source{files: files, log: log}
	seen, err := s.stat()
	if err != nil {
		return nil, err
	}
	m, err := read(files)
	if err != nil {
		return nil, err
	}
	s.last, s.seen = m, seen
	return s, nil
}

// Leaf returns the certificate in force.
func (s *Source) Leaf() *x509.Certificate { return s.current().pair.Leaf }

// Server returns the configuration of a server that asks no certificate of its
// clients: the client port.
func (s *Source) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &s.current().pair, nil
		},
	}
}

// Accept returns the configuration for connections from other nodes: TLS 1.3,
// and a handshake succeeds only with a node's certificate (see [NodeName]) from
// a trusted authority. Who it is, is up to the caller to ask and to judge.
func (s *Source) Accept() *tls.Config {
	return s.demand(func(state tls.ConnectionState) error {
		_, err := PeerName(state)
		return err
	})
}

// demand is the configuration of a server that asks its clients for a
// certificate which an authority has signed and verify accepts.
func (s *Source) demand(verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := s.current()
			return &tls.Config{
				MinVersion:             tls.VersionTLS13,
				Certificates:           []tls.Certificate{m.pair},
				ClientAuth:             tls.RequireAndVerifyClientCert,
				ClientCAs:              m.pool,
				SessionTicketsDisabled: true, // each connection presents its certificate
				VerifyConnection:       verify,
			}, nil
		},
	}
}

// Dial returns the configuration for one connection to the node called name:
// TLS 1.3, and the handshake succeeds only with that node's own certificate from
// a trusted authority.
func (s *Source) Dial(name string) *tls.Config {
	m := s.current()
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.pair},
		RootCAs:      m.pool,
		ServerName:   name,
		VerifyConnection: func(state tls.ConnectionState) error {
			got, err := PeerName(state)
			if err == nil && got != name {
				err = fmt.Errorf("the certificate is that of %s, not of %s", got, name)
			}
			return err
		},
	}
}

// PeerName returns the name of the node at the other end of a connection.
func PeerName(state tls.ConnectionState) (string, error) {
	if len(state.PeerCertificates) == 0 {
		return "", errors.New("no certificate")
	}
	return NodeName(state.PeerCertificates[0])
}

// ClientConfig returns the configuration of a client that trusts the authorities
// in a file, or those of the system if file is "".
func ClientConfig(file string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return cfg, nil
	}
	pool, err := readPool(file)
	cfg.RootCAs = pool
	return cfg, err
}

// Check reads the files again if they changed, and logs when the certificate
// nears its end. Handshakes do the same; a process that may go without one for
// weeks calls Check now and then.
func (s *Source) Check() { s.current() }

// current returns what is in force, after looking at the files.
func (s *Source) current() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, err := s.stat()
	if err == nil && !same(seen, s.seen) {
		err = s.reload(seen)
	}
	switch {
	case err == nil:
		s.bad = ""
	case err.Error() != s.bad:
		s.bad = err.Error()
		s.log.Error("certificate files cannot be used; the former ones stay in force", "err", err)
	}
	s.warn()
	return s.last
}

// reload reads the changed files. mu is held.
func (s *Source) reload(seen []os.FileInfo) error {
	m, err := read(s.files)
	if err != nil {
		return err // seen stays as it was: tried again at the next handshake
	}
	if was, err := NodeName(s.last.pair.Leaf); err == nil {
		if is, err := NodeName(m.pair.Leaf); err != nil || is != was {
			return fmt.Errorf("%s was the certificate of node %s and is that of %q now", s.files.Cert, was, m.pair.Leaf.Subject.CommonName)
		}
	}
	s.last, s.seen, s.warned = m, seen, time.Time{}
	s.log.Info("certificates read again", "file", s.files.Cert, "expires", m.pair.Leaf.NotAfter)
	return nil
}

// warn logs once a day that the certificate must be renewed. mu is held.
func (s *Source) warn() {
	if !Due(s.last.pair.Leaf) || time.Since(s.warned) < 24*time.Hour {
		return
	}
	s.warned = time.Now()
	s.log.Warn("the certificate must be renewed; no restart is needed", "file", s.files.Cert, "expires", s.last.pair.Leaf.NotAfter)
}

func (s *Source) stat() ([]os.FileInfo, error) {
	var infos []os.FileInfo
	for _, file := range []string{s.files.Cert, s.files.Key, s.files.CA} {
		if file == "" {
			continue
		}
		info, err := os.Stat(file)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// same reports whether nothing was replaced or changed in place.
func same(a, b []os.FileInfo) bool {
	for i := range a {
		if !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() {
			return false
		}
	}
	return true
}
