package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/local"
)

// socket is a node's admin socket.
func socket(n *local.Node) string { return filepath.Join(n.Data, "admin.sock") }

// admin runs an administrative command against a node's socket.
func admin(t *testing.T, n *local.Node, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return parleyCmd(t, append(args, "--admin-socket", socket(n))...)
}

// wantAdmin is admin for what must succeed.
func wantAdmin(t *testing.T, n *local.Node, args ...string) string {
	t.Helper()
	status, out, errs := admin(t, n, args...)
	if status != 0 {
		t.Fatalf("parley %v: status %d: %s%s", args, status, out, errs)
	}
	return out
}

// wantRefused is admin for what must not, for a reason.
func wantRefused(t *testing.T, n *local.Node, why string, args ...string) {
	t.Helper()
	status, out, errs := admin(t, n, args...)
	if status != 1 || !strings.Contains(errs, why) {
		t.Errorf("parley %v: status %d, want 1 and %q: %s%s", args, status, why, out, errs)
	}
}

// logLines returns the lines of a node's log that hold a text.
func logLines(t *testing.T, n *local.Node, part string) (lines []string) {
	t.Helper()
	f, err := os.Open(n.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.Contains(s.Text(), part) {
			lines = append(lines, s.Text())
		}
	}
	return lines
}

// What only administrators may do is done through the socket, and each act is
// one line in the log of the node that was asked.
func TestAdmin(t *testing.T) {
	c := startCluster(t, 3)
	must(t, newClient(t, c.Servers()...).Session(), parley.CreateUser{Name: "ann"})
	first := leader(t, c)
	rest := others(c, first)

	var view struct {
		Node    string
		Members []parley.Member
	}
	if err := json.Unmarshal([]byte(wantAdmin(t, rest[0], "admin", "status", "--json")), &view); err != nil || view.Node != rest[0].Name || len(view.Members) != 3 {
		t.Errorf("status: %+v, %v", view, err)
	}
	transfers := 0
	eventually(t, func() error { // on a busy machine it may take another try, and others may come to lead
		if status, out, errs := admin(t, first, "admin", "transfer", rest[0].Name); status != 0 {
			return fmt.Errorf("transfer: %s%s", out, errs)
		}
		transfers++
		if l := leader(t, c); l != rest[0] {
			return fmt.Errorf("%s leads", l.Name)
		}
		return nil
	})
	wantRefused(t, first, "n9", "admin", "transfer", "n9")
	for act, want := range map[string]int{rest[0].Name + " result=ok": transfers, "n9 result=": 1} {
		ok := strings.HasSuffix(act, "ok")
		lines := logLines(t, first, "what=transfer args.name="+act)
		if len(lines) != want || !strings.Contains(lines[0], `msg=audit who="uid `) || strings.Contains(lines[0], "result=ok") != ok {
			t.Errorf("audit log of %s:\n%s", first.Name, strings.Join(lines, "\n"))
		}
	}

	// A drained node has no clients and does not lead, and its vote still counts.
	drained := rest[0]
	wantAdmin(t, drained, "admin", "drain")
	if nc, err := net.Dial("tcp", drained.Client); err == nil {
		nc.Close()
		t.Error("a drained node takes clients")
	}
	if err := drained.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "drained") {
		t.Errorf("a drained node says that it is %v", err)
	}
	if out := wantAdmin(t, drained, "admin", "status"); !strings.Contains(out, ", drained") {
		t.Errorf("status: %s", out)
	}
	eventually(t, func() error { // it may come to lead, and hands over then
		if leader(t, c) == drained {
			return fmt.Errorf("the drained node %s leads", drained.Name)
		}
		return nil
	})
	must(t, newClient(t, c.Servers()...).Session(), parley.Send{To: "ann", Body: "two serve"})
	rest[1].Kill()
	must(t, newClient(t, first.Client).Session(), parley.Send{To: "ann", Body: "and the drained one votes"})

	// Removal never costs the majority, and is for good.
	wantRefused(t, first, rest[1].Name, "member", "remove", drained.Name)
	wantAdmin(t, first, "member", "remove", rest[1].Name)
	if out := wantAdmin(t, first, "member", "list"); strings.Contains(out, "\n"+rest[1].Name+" ") || !strings.Contains(out, "\n"+drained.Name+" ") {
		t.Errorf("members after the removal of %s:\n%s", rest[1].Name, out)
	}
	if err := drained.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return drained.Ready(t.Context()) }) // the socket of the killed process is in nobody's way
	wantAdmin(t, drained, "admin", "status")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := drained.Stop(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket(drained)); err == nil {
		t.Error("the socket is left behind")
	}
	if status, _, _ := admin(t, drained, "admin", "status"); status != 3 {
		t.Errorf("status %d of a node that does not run, want 3", status)
	}
}

// From afar an administrator's certificate is needed, and nothing else will do.
func TestAdminFromAfar(t *testing.T) {
	port, err := local.FreePort("127.0.0.1", nil)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	c := startCluster(t, 1, "--admin-listen", addr)
	n := c.Nodes()[0]
	stranger := t.TempDir()
	for _, args := range [][]string{
		{"certs", "client", "ann", "--admin", "--dir", c.Certs()}, {"certs", "client", "bot", "--dir", c.Certs()},
		{"certs", "init", "--dir", stranger}, {"certs", "client", "ann", "--admin", "--dir", stranger},
	} {
		if status, out, errs := parleyCmd(t, args...); status != 0 {
			t.Fatalf("%v: %s%s", args, out, errs)
		}
	}
	// The stranger trusts the cluster, so that it is up to the node to refuse it.
	ca, err := os.ReadFile(filepath.Join(c.Certs(), "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile(filepath.Join(stranger, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stranger, "ca.pem"), append(ca, own...), 0o600); err != nil {
		t.Fatal(err)
	}
	as := func(dir, name string) int {
		t.Helper()
		status, out, errs := parleyCmd(t, "admin", "status", "--admin-server", addr, "--certs", dir, "--as", name)
		t.Logf("as %s: %s%s", name, out, errs)
		return status
	}
	if as(c.Certs(), "ann") != 0 {
		t.Error("an administrator is refused")
	}
	for what, status := range map[string]int{
		"a client": as(c.Certs(), "bot"), "a node": as(c.Certs(), n.Name), "another cluster's administrator": as(stranger, "ann"),
	} {
		if status == 0 {
			t.Errorf("%s may administer the cluster", what)
		}
	}
	lines := logLines(t, n, "msg=audit")
	if len(lines) != 1 || !strings.Contains(lines[0], `who="certificate ann" what=status`) {
		t.Errorf("audit log:\n%s", strings.Join(lines, "\n"))
	}
}

// Whatever a node writes is for its own user only.
func TestFilesAreOurs(t *testing.T) {
	c := startCluster(t, 1)
	n := c.Nodes()[0]
	s := newClient(t, n.Client).Session()
	must(t, s, parley.CreateUser{Name: "ann"})
	must(t, s, parley.Send{To: "ann", Body: "hello"})
	for _, dir := range []string{n.Data, c.Certs()} {
		files := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			want := fs.FileMode(0o600)
			if d.IsDir() {
				want = 0o700
			}
			if got := info.Mode().Perm(); got != want {
				t.Errorf("%s: mode %04o, want %04o", path, got, want)
			}
			files++
			return nil
		})
		if err != nil || files < 4 {
			t.Errorf("%s: %d files, %v", dir, files, err)
		}
	}

	// A key that others can read keeps the node from starting.
	key := filepath.Join(c.Certs(), n.Name+"-key.pem")
	n.Kill()
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.Exited():
	case <-t.Context().Done():
	}
	if why := n.LastLog(); !strings.Contains(why, "can be read or changed by others") {
		t.Errorf("with a key of mode 0640 it said %q", why)
	}
}
