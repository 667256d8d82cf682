package certs

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// signed writes a certificate for n1 that the authority in dir signed, after edit.
func signed(t *testing.T, dir string, edit func(*x509.Certificate)) {
	t.Helper()
	ca, caKey, err := readCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := Paths(dir, "n1")
	key, err := keepOrMakeKey(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "n1"},
		NotBefore:   time.Now().Add(-time.Hour),
		NotAfter:    time.Now().Add(time.Hour),
		DNSNames:    []string{"n1"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	edit(c)
	if err := writeCert(f.Cert, c, ca, key, caKey); err != nil {
		t.Fatal(err)
	}
}

func setup(t *testing.T) (dir string, s *Source, log *bytes.Buffer) {
	t.Helper()
	dir = t.TempDir()
	if err := Init(dir); err != nil {
		t.Fatal(err)
	}
	if err := Issue(dir, "n1"); err != nil {
		t.Fatal(err)
	}
	log = &bytes.Buffer{}
	s, err := NewSource(Paths(dir, "n1"), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return dir, s, log
}

func TestNodeNameIsUnambiguous(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*x509.Certificate)
		ok   bool
	}{
		{"as issued", func(*x509.Certificate) {}, true},
		{"with another node among its hosts", func(c *x509.Certificate) { c.DNSNames = []string{"n2", "n1"} }, true},
		{"without common name", func(c *x509.Certificate) { c.Subject.CommonName = "" }, false},
		{"common name not verified by TLS", func(c *x509.Certificate) { c.DNSNames = []string{"n2"} }, false},
		{"for clients only", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }, false},
		{"for servers only", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, false},
	} {
		dir, _, _ := setup(t)
		signed(t, dir, test.edit)
		cert, err := readCert(Paths(dir, "n1").Cert)
		if err != nil {
			t.Fatal(err)
		}
		name, err := NodeName(cert)
		if test.ok && (name != "n1" || err != nil) || !test.ok && err == nil {
			t.Errorf("%s: %q, %v", test.name, name, err)
		}
	}
}

func TestIssueRenewsInTime(t *testing.T) {
	dir, _, _ := setup(t)
	file := Paths(dir, "n1").Cert
	for _, test := range []struct {
		left  time.Duration
		renew bool
	}{{-time.Minute, true}, {29 * 24 * time.Hour, true}, {31 * 24 * time.Hour, false}} {
		signed(t, dir, func(c *x509.Certificate) {
			c.NotAfter = time.Now().Add(test.left)
			c.DNSNames = append(c.DNSNames, "chat.example.org")
		})
		before, err := readCert(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := Issue(dir, "n1"); err != nil {
			t.Fatal(err)
		}
		after, err := readCert(file)
		if err != nil {
			t.Fatal(err)
		}
		if renewed := !after.Equal(before); renewed != test.renew {
			t.Errorf("%v left: renewed %v", test.left, renewed)
		}
		if test.renew && time.Until(after.NotAfter) < nodeLife-time.Minute {
			t.Errorf("%v left: renewed until %v only", test.left, after.NotAfter)
		}
		if !slices.Contains(after.DNSNames, "chat.example.org") {
			t.Errorf("%v left: the hosts were lost", test.left)
		}
	}
}

func TestSourceFollowsFiles(t *testing.T) {
	dir, s, _ := setup(t)
	before := s.Leaf()
	if s.Leaf() != before {
		t.Error("read again although nothing changed")
	}
	signed(t, dir, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "new") })
	if after := s.Leaf(); !slices.Contains(after.DNSNames, "new") {
		t.Errorf("still the old certificate after it was replaced: %v", after.DNSNames)
	}
}

func TestSourceKeepsWhatWorks(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
	}{
		{"garbage", func(t *testing.T, dir string) {
			if err := os.WriteFile(Paths(dir, "n1").Cert, []byte("-----BEGIN"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"gone", func(t *testing.T, dir string) {
			if err := os.Remove(Paths(dir, "n1").Key); err != nil {
				t.Fatal(err)
			}
		}},
		{"readable key", func(t *testing.T, dir string) {
			key := Paths(dir, "n1").Key
			data, _ := os.ReadFile(key)
			if err := os.Rename(key, key+".old"); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(key, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"another name", func(t *testing.T, dir string) {
			signed(t, dir, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "n2", []string{"n2"} })
		}},
		{"another authority", func(t *testing.T, dir string) {
			for _, f := range []string{"ca.pem", "ca-key.pem"} {
				if err := os.Remove(filepath.Join(dir, f)); err != nil {
					t.Fatal(err)
				}
			}
			if err := Init(dir); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, s, log := setup(t)
			before := s.Leaf()
			test.spoil(t, dir)
			for range 3 {
				if !s.Leaf().Equal(before) {
					t.Fatal("the former certificate is not in force any more")
				}
			}
			if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
				t.Errorf("%d lines logged, want 1:\n%s", n, log)
			}
			if err := os.RemoveAll(Paths(dir, "n1").Key); err != nil {
				t.Fatal(err)
			}
			if err := Issue(dir, "n1"); err != nil && test.name != "garbage" {
				t.Fatal(err)
			} else if err != nil {
				return // Issue does not overwrite what it does not understand
			}
			if s.Leaf().Equal(before) {
				t.Error("not read again after it was mended")
			}
		})
	}
}

func TestSourceWarnsOfTheEnd(t *testing.T) {
	dir, s, log := setup(t)
	s.Check()
	if log.Len() != 0 {
		t.Fatalf("warned of a year: %s", log)
	}
	signed(t, dir, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(29 * 24 * time.Hour) })
	for range 3 {
		s.Check()
	}
	if n := strings.Count(log.String(), "must be renewed"); n != 1 {
		t.Errorf("warned %d times, want once:\n%s", n, log)
	}
}
