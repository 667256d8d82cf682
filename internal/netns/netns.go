// Package netns makes networks of their own on this machine, and cuts their links:
// one network namespace per host, all plugged into one switch, which lives in a
// namespace too. Nothing of it can be seen from, or reaches, the machine's own
// network.
//
// The namespaces have no names. Descriptors of this process hold them, and the
// processes that run in them: when those have ended, however they did, everything
// is gone.
//
// It needs Linux, root, and the programs ip, nft, tc and nsenter (Debian: iproute2,
// nftables, util-linux); [New] says what is missing.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrUnavailable is what [New] returns, with the reason, where networks cannot be
// made. A test that needs one is skipped then.
var ErrUnavailable = errors.New("netns: this machine cannot make network namespaces")

// Net is a network of hosts. Its methods may be called concurrently.
type Net struct {
	hosts []string // host i has the address subnet.(i+1)

	mu     sync.Mutex // held while rules change
	sw     *space
	spaces map[string]*space
}

const subnet = "10.77.0."

// Fault is something that is wrong with what one host sends to another.
type Fault struct {
	From, To string // hosts; "": all
	// Loss is how many of a hundred frames are lost at random. 0: all of them.
	Loss int
	// Refuse: no frame is lost, but the receiver answers those of TCP with a reset and
	// all others with "port unreachable", as a firewall does.
	Refuse bool
}

// Cut is the two faults that part a from b in both directions.
func Cut(a, b string) []Fault { return []Fault{{From: a, To: b}, {From: b, To: a}} }

// Split is the faults that part every host of one side from every host of the other.
func Split(side, other []string) (faults []Fault) {
	for _, a := range side {
		for _, b := range other {
			faults = append(faults, Cut(a, b)...)
		}
	}
	return faults
}

func (f Fault) String() string {
	what := "cut"
	switch {
	case f.Refuse:
		what = "refused"
	case f.Loss > 0:
		what = fmt.Sprintf("%d %% lost", f.Loss)
	}
	all := func(host string) string {
		if host == "" {
			return "*"
		}
		return host
	}
	return all(f.From) + "→" + all(f.To) + " " + what
}

// New makes a network. Hosts have names of at most 15 letters and digits.
func New(hosts ...string) (*Net, error) {
	if len(hosts) == 0 || len(hosts) > 200 {
		return nil, fmt.Errorf("netns: %d hosts: must be 1 to 200", len(hosts))
	}
	for _, program := range []string{"ip", "nft", "tc", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	n := &Net{hosts: hosts, spaces: make(map[string]*space)}
	if err := n.build(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// build makes the switch and plugs the hosts in.
func (n *Net) build() error {
	var err error
	if n.sw, err = newSpace(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	// Nothing but IPv4 and ARP, so that an idle network is silent.
	plan := "link set lo up\nlink add name sw type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set dev sw addrgenmode none up\n"
	for _, host := range n.hosts {
		s, err := newSpace()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		n.spaces[host] = s
		plan += fmt.Sprintf("link add name %s type veth peer name eth0 netns %s\n", host, s.path())
		plan += fmt.Sprintf("link set dev %s addrgenmode none master sw up\n", host)
	}
	if err := n.sw.run(plan, "ip", "-batch", "-"); err != nil {
		return lacking(err)
	}
	for _, host := range n.hosts {
		plan := fmt.Sprintf("link set lo up\naddr add %s/24 dev eth0\nlink set eth0 addrgenmode none up\n", n.Addr(host))
		if err := n.spaces[host].run(plan, "ip", "-batch", "-"); err != nil {
			return err
		}
	}
	return lacking(n.Set())
}

// lacking tells what the machine cannot do from mistakes.
func lacking(err error) error {
	for _, said := range []string{"Operation not permitted", "not supported", "Unknown device type"} {
		if err != nil && strings.Contains(err.Error(), said) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return err
}

// Close removes the network, once the processes that run in it have ended.
func (n *Net) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	errs := []error{n.sw.close()}
	for _, s := range n.spaces {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// Addr is the address of a host.
func (n *Net) Addr(host string) string {
	i := slices.Index(n.hosts, host)
	if i < 0 {
		panic("netns: no host " + host)
	}
	return fmt.Sprint(subnet, i+1)
}

// Command is the command line that runs another one on a host, under the same
// process id.
func (n *Net) Command(host string, argv []string) []string {
	return append([]string{"nsenter", "--net=" + n.spaces[host].path(), "--"}, argv...)
}

// Dial connects from a host, as net.Dialer.DialContext does. Addresses must be
// numbers.
func (n *Net) Dial(ctx context.Context, host, network, addr string) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // a thread waits with it
	defer cancel()
	enter := n.spaces[host].do(func() {
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
	})
	return conn, errors.Join(enter, err)
}

// Dialer is Dial from one host.
func (n *Net) Dialer(host string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return n.Dial(ctx, host, network, addr)
	}
}

// Set makes these the faults of the network, instead of those there were, all at
// the same moment; without any it is healed. Those that refuse come a moment later.
func (n *Net) Set(faults ...Fault) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var cuts strings.Builder
	refusals := make(map[string]*strings.Builder)
	for _, host := range n.hosts {
		refusals[host] = &strings.Builder{}
	}
	for _, f := range faults {
		for _, host := range []string{f.From, f.To} {
			if host != "" && !slices.Contains(n.hosts, host) {
				return fmt.Errorf("netns: no host %s", host)
			}
		}
		if f.Loss < 0 || f.Loss > 100 {
			return fmt.Errorf("netns: %d %% loss: must be 0 to 100", f.Loss)
		}
		if !f.Refuse {
			fmt.Fprintf(&cuts, "%s drop\n", n.match(f))
			continue
		}
		for host, rules := range refusals {
			if f.To != "" && f.To != host {
				continue
			}
			from := ""
			if f.From != "" {
				from = "ip saddr " + n.Addr(f.From)
			}
			fmt.Fprintf(rules, "%s meta iifname eth0 meta l4proto tcp reject with tcp reset\n%s meta iifname eth0 reject\n", from, from)
		}
	}
	errs := []error{n.sw.run(table("bridge", "forward", cuts.String()), "nft", "-f", "-")}
	for host, rules := range refusals {
		if err := n.spaces[host].setRefusals(rules.String()); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// match is the part of a rule that says for which frames it is.
func (n *Net) match(f Fault) (m string) {
	if f.From != "" {
		m += "iifname " + f.From + " "
	}
	if f.To != "" {
		m += "oifname " + f.To + " "
	}
	if f.Loss > 0 && f.Loss < 100 {
		m += fmt.Sprintf("numgen random mod 100 < %d ", f.Loss)
	}
	return m + "counter"
}

// table is the program for nft that replaces a table of one chain.
func table(family, hook, rules string) string {
	return fmt.Sprintf("add table %[1]s lab\ndelete table %[1]s lab\ntable %[1]s lab {\nchain faults {\ntype filter hook %[2]s priority 0; policy accept\n%[3]s}\n}\n",
		family, hook, rules)
}

// Dropped is how many frames were lost to faults since they were set.
func (n *Net) Dropped() (frames int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out, err := n.sw.output("", "nft", "list", "table", "bridge", "lab")
	for _, rule := range strings.Split(out, "\n") {
		if _, rest, ok := strings.Cut(rule, "counter packets "); ok {
			var k int
			_, _ = fmt.Sscan(rest, &k)
			frames += k
		}
	}
	return frames, err
}

// Limit makes a host send no more than so many kbit/s, whoever to; 0: as much as it
// wants. What waits for longer than 400 ms is lost.
func (n *Net) Limit(host string, kbit int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.spaces[host]
	if kbit == 0 {
		return s.run("", "tc", "qdisc", "delete", "dev", "eth0", "root")
	}
	return s.run("", "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf",
		"rate", fmt.Sprintf("%dkbit", kbit), "burst", "3200", "latency", "400ms")
}

// space is one network namespace.
type space struct {
	ns       *os.File
	refusals string // the rules of its own
}

// path is under which other programs find the namespace while this process runs.
func (s *space) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.ns.Fd()) }

func (s *space) close() error {
	if s == nil {
		return nil
	}
	return s.ns.Close()
}

// setRefusals replaces the host's own rules if they change.
func (s *space) setRefusals(rules string) error {
	if rules == s.refusals {
		return nil
	}
	if err := s.run(table("inet", "input", rules), "nft", "-f", "-"); err != nil {
		return err
	}
	s.refusals = rules
	return nil
}

// run runs a program in the namespace.
func (s *space) run(stdin string, argv ...string) error {
	_, err := s.output(stdin, argv...)
	return err
}

// output is run, and what the program said.
func (s *space) output(stdin string, argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	if enter := s.do(func() { err = cmd.Start() }); enter != nil {
		return "", enter
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("netns: %s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}
