package main

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley/certs"
)

func newCertsCmd(a *app) *cobra.Command {
	var dir string
	var hosts []string
	cmd := &cobra.Command{
		Use:   "certs [NODE...]",
		Short: "Make the private certificate authority and the certificates of the nodes",
		Long: `Certs makes what nodes need to trust each other: a private certificate authority
(ca.pem, ca-key.pem) and for each node a certificate that says its name
(n1.pem, n1-key.pem). What exists and is good is kept, so the command can be
repeated, and repeated within the last 30 days of a certificate it renews it.

'parley certs n1 n2 n3' is 'parley certs init' and 'parley certs node' in one.
Each node needs ca.pem and its own two files; ca-key.pem belongs on none of them.

'parley certs client ann --admin' makes a certificate with which ann may
administer the cluster from afar (see 'parley admin').`,
		Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, names []string) error {
			if len(names) == 0 {
				return usagef("name the nodes, or use one of: init, node, client, renew, show")
			}
			if err := checkNames(names); err != nil {
				return err
			}
			if err := initCerts(a, dir); err != nil {
				return err
			}
			return issueCerts(a, dir, names, hosts)
		},
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", "certs", "`directory` of the certificates")
	addHosts := func(c *cobra.Command) {
		c.Flags().StringSliceVar(&hosts, "hosts", nil, "further `names` and addresses under which clients reach the nodes, for client TLS")
	}
	addHosts(cmd)
	node := &cobra.Command{
		Use:   "node NODE...",
		Short: "Make or renew the certificates of nodes",
		Args:  atLeast("the node's name"),
		RunE: func(_ *cobra.Command, names []string) error {
			if err := checkNames(names); err != nil {
				return err
			}
			return issueCerts(a, dir, names, hosts)
		},
	}
	addHosts(node)
	cmd.AddCommand(
		&cobra.Command{
			Use:   "init",
			Short: "Make the certificate authority, if there is none",
			Args:  exactly(),
			RunE:  func(*cobra.Command, []string) error { return initCerts(a, dir) },
		},
		node,
		newCertsClientCmd(a, &dir),
		newCertsRenewCmd(a, &dir),
		newCertsShowCmd(a, &dir),
	)
	return cmd
}

func checkNames(names []string) error {
	for _, name := range names {
		if err := certs.CheckName(name); err != nil {
			return &usageError{err}
		}
	}
	return nil
}

func initCerts(a *app, dir string) error {
	if err := certs.Init(dir); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "authority %s\n", filepath.Join(dir, "ca.pem"))
	return err
}

func issueCerts(a *app, dir string, names, hosts []string) error {
	for _, name := range names {
		if err := certs.Issue(dir, name, hosts...); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(a.stdout, "node %s %s\n", name, certs.Paths(dir, name).Cert); err != nil {
			return err
		}
	}
	return nil
}

func newCertsClientCmd(a *app, dir *string) *cobra.Command {
	var admin bool
	cmd := &cobra.Command{
		Use:   "client NAME...",
		Short: "Make or renew certificates of people and programs, administrators for instance",
		Args:  atLeast("the client's name"),
		RunE: func(_ *cobra.Command, names []string) error {
			if err := checkNames(names); err != nil {
				return err
			}
			role := certs.RoleClient
			if admin {
				role = certs.RoleAdmin
			}
			for _, name := range names {
				if err := certs.IssueClient(*dir, name, admin); err != nil {
					return err
				}
				if _, err := fmt.Fprintf(a.stdout, "%s %s %s\n", role, name, certs.Paths(*dir, name).Cert); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&admin, "admin", false, "the bearer may administer the cluster")
	return cmd
}

func newCertsRenewCmd(a *app, dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "renew [NAME...]",
		Short: "Renew certificates: those named, or all that end within 30 days",
		Long: `Renew replaces certificates by ones that say the same, for the same keys, and are
good for a year from now. Copy them to their nodes; no restart is needed.`,
		RunE: func(_ *cobra.Command, names []string) error {
			if err := checkNames(names); err != nil {
				return err
			}
			if len(names) == 0 {
				infos, err := readCerts(*dir)
				if err != nil {
					return err
				}
				for _, c := range infos {
					if c.due && c.Role != certs.RoleAuthority && c.Role != certs.RoleUnknown {
						names = append(names, c.Subject)
					}
				}
			}
			for _, name := range names {
				if err := certs.Renew(*dir, name); err != nil {
					return err
				}
				if _, err := fmt.Fprintf(a.stdout, "renewed %s %s\n", name, certs.Paths(*dir, name).Cert); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// certInfo is what `parley certs show` says about one certificate.
type certInfo struct {
	File    string     `json:"file"`
	Subject string     `json:"subject"`
	Role    certs.Role `json:"role"`
	Hosts   []string   `json:"hosts"`
	CA      bool       `json:"ca"`
	Until   time.Time  `json:"until"`
	Days    int        `json:"days_left"` // less than 0: it has ended
	due     bool
}

func newCertsShowCmd(a *app, dir *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "List the certificates and when they end",
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			infos, err := readCerts(*dir)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.stdout, map[string]any{"certificates": infos})
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "FILE\tNAME\tROLE\tHOSTS\tUNTIL\tDAYS LEFT")
			for _, c := range infos {
				advice := ""
				if c.due {
					advice = " (renew it)"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d%s\n", visible(c.File), visible(c.Subject), cmp.Or(c.Role, "unknown"),
					visible(cmp.Or(strings.Join(c.Hosts, " "), "-")), c.Until.Format(time.DateOnly), c.Days, advice)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// readCerts reads all certificates in dir, the authority's first.
func readCerts(dir string) ([]certInfo, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil {
		return nil, err
	}
	infos := []certInfo{}
	for _, file := range files {
		if strings.HasSuffix(file, "-key.pem") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			info := certInfo{
				File: file, Subject: cert.Subject.CommonName, Role: certs.RoleOf(cert), Hosts: cert.DNSNames, CA: cert.IsCA,
				Until: cert.NotAfter, Days: int(math.Floor(time.Until(cert.NotAfter).Hours() / 24)), due: certs.Due(cert),
			}
			for _, ip := range cert.IPAddresses {
				info.Hosts = append(info.Hosts, ip.String())
			}
			infos = append(infos, info)
		}
	}
	if len(infos) == 0 {
		return nil, fmt.Errorf("%s holds no certificates: 'parley certs --dir %s n1 n2 n3' makes them", dir, dir)
	}
	slices.SortStableFunc(infos, func(x, y certInfo) int {
		if x.CA != y.CA {
			if x.CA {
				return -1
			}
			return 1
		}
		return strings.Compare(x.File, y.File)
	})
	return infos, nil
}
