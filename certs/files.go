package certs

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// material is what a set of files contains.
type material struct {
	pair tls.Certificate // Leaf is set
	pool *x509.CertPool  // nil if Files.CA is ""
}

// read reads a set of files; CA may be "".
func read(f Files) (*material, error) {
	if err := checkPrivate(f.Key); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	m := &material{pair: pair}
	if f.CA == "" {
		return m, nil
	}
	if m.pool, err = readPool(f.CA); err != nil {
		return nil, err
	}
	if err := m.checkChain(); err != nil {
		return nil, fmt.Errorf("certificate %s is not from an authority in %s: %w", f.Cert, f.CA, err)
	}
	return m, nil
}

// checkChain verifies that the certificate comes from a trusted authority. That
// it has expired is another matter: that is reported, and judged by others.
func (m *material) checkChain() error {
	now := time.Now()
	if now.After(m.pair.Leaf.NotAfter) {
		now = m.pair.Leaf.NotAfter
	}
	opts := x509.VerifyOptions{
		Roots:         m.pool,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, der := range m.pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			opts.Intermediates.AddCert(c)
		}
	}
	_, err := m.pair.Leaf.Verify(opts)
	return err
}

// readPool reads a file of authorities.
func readPool(file string) (*x509.CertPool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("certificate authority: no certificate in %s", file)
	}
	return pool, nil
}

// readCert reads the first certificate of a file.
func readCert(file string) (*x509.Certificate, error) {
	der, err := readPEM(file, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return cert, nil
}

// readKey reads one of our own private keys.
func readKey(file string) (*ecdsa.PrivateKey, error) {
	if err := checkPrivate(file); err != nil {
		return nil, err
	}
	der, err := readPEM(file, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		return k, nil
	}
	return nil, fmt.Errorf("%s: a %T where an ECDSA key is expected", file, key)
}

func readPEM(file, kind string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s does not begin with a PEM block %q", file, kind)
	}
	return block.Bytes, nil
}

// checkPrivate refuses a private key that others can read. Where permissions
// are not Unix ones there is nothing to check.
func checkPrivate(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("private key %s can be read or changed by others (mode %04o): run chmod 600 %s", file, mode, file)
	}
	return nil
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(file, "PRIVATE KEY", der)
}

// writeCert signs and writes a certificate for the public half of key.
func writeCert(file string, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return writePEM(file, "CERTIFICATE", der)
}

// writePEM replaces a file as a whole, so that no reader sees half of it.
func writePEM(file, kind string, der []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	err = errors.Join(pem.Encode(tmp, &pem.Block{Type: kind, Bytes: der}), tmp.Sync(), tmp.Close())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.Rename(tmp.Name(), file)
}
