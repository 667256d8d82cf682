package parley_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/parley-chat/parley"

// levels says which package is on which level. A package imports only packages
// on lower levels, and none on its own. What is below node/internal counts as a
// part of node, and so on. docs/architecture.md shows the same table.
func levels() map[string]int {
	return map[string]int{
		"internal/pause": -1, // waits, for everybody
		"internal/fair":  -1, // fair shares, for everybody

		".":                0, // the vocabulary
		"internal/local":   0, // supervises processes, knows nothing of chat
		"internal/netns":   0, // networks of namespaces, whose links can be cut
		"internal/proxy":   0, // forwards TCP connections, badly
		"internal/faultfs": 0, // disks that forget what was not synced

		"wire":           1, // bytes and values
		"fsm":            1, // deterministic state
		"certs":          1, // the private authority
		"parleytest":     1, // the fake and the conformance suite
		"internal/check": 1, // the checkers
		"api/helloworld": 1, // the exercise's gRPC service, generated
		"api/parley/v1":  1, // the typed gRPC service, generated

		"account":        2, // who may do what
		"mux":            2, // both ends of a framed connection
		"internal/chaos": 2, // load, failures and verdict, over interfaces
		"internal/bench": 2, // measured load, over interfaces

		"node":           3, // a cluster member
		"client":         3, // the remote Service
		"transport":      3, // accept, track, drain
		"transport/peer": 3, // mutual TLS between members

		"internal/lab": 4, // clusters in one process, in virtual time, broken on purpose

		"transport/tcp": 4, // the gateway for classic and framed clients
		"transport/rpc": 4, // the gateway for gRPC

		"cmd/parley":           5, // the one binary
		"internal/lab/mutants": 5, // plants bugs
		"test":                 5, // whole processes

		"examples/go": 5, // how to use the gRPC services
	}
}

// gateways lists what each gateway sees: the vocabulary, its own protocol, and
// never what is behind the Service.
func gateways() map[string][]string {
	return map[string][]string{
		"transport/tcp": {".", "wire", "mux", "transport", "internal/pause", "internal/fair"},
		"transport/rpc": {".", "api/helloworld", "api/parley/v1", "internal/pause", "internal/fair"},
	}
}

// TestImports checks the levels. Test files are exempt.
func TestImports(t *testing.T) {
	imports := listImports(t)
	if len(imports) < 5 {
		t.Fatalf("only %d packages found", len(imports))
	}
	for name := range imports {
		if _, ok := levels()[owner(name)]; !ok {
			t.Errorf("%s: which level is it on? Say it in arch_test.go and in docs/architecture.md", name)
		}
	}
	for _, complaint := range offences(imports) {
		t.Error(complaint)
	}
}

// TestImportsCanFail plants offences.
func TestImportsCanFail(t *testing.T) {
	for _, c := range []struct{ name, imported string }{
		{".", "example.org/x"},        // the vocabulary needs nobody
		{".", module + "/wire"},       // upwards
		{"wire", module + "/fsm"},     // sideways
		{"client", module + "/node"},  // sideways
		{"node", module + "/test"},    // upwards
		{"mux", module + "/client"},   // upwards
		{"wire", module + "/unknown"}, // nowhere
		{"transport/tcp", module + "/fsm"},
		{"transport/tcp", module + "/node"},
		{"transport/rpc", module + "/wire"},
		{"node/internal/store", module + "/node"},
		{"node/internal/store", module + "/client"},
	} {
		if got := offences(map[string][]string{c.name: {c.imported}}); len(got) != 1 {
			t.Errorf("%s imports %s: %q", c.name, c.imported, got)
		}
	}
	fine := map[string][]string{
		".":                   {"context", "log/slog"},
		"node":                {module, module + "/fsm", module + "/node/internal/store", "github.com/hashicorp/raft"},
		"node/internal/store": {module + "/fsm"},
		"node/internal/link":  {module + "/node/internal/store"},
		"transport/tcp":       {module, module + "/mux"},
		"cmd/parley":          {module + "/node", module + "/internal/local"},
	}
	if got := offences(fine); len(got) != 0 {
		t.Errorf("complaints about what is allowed: %q", got)
	}
}

// offences returns one complaint for each import that is not allowed. The keys
// are packages of this module without the module's path, the values import paths.
func offences(imports map[string][]string) []string {
	var complaints []string
	for name, paths := range imports {
		for _, path := range paths {
			if why := offence(name, path); why != "" {
				complaints = append(complaints, fmt.Sprintf("%s imports %s: %s", name, path, why))
			}
		}
	}
	slices.Sort(complaints)
	return complaints
}

func offence(name, path string) string {
	imported, ours := inModule(path)
	if !ours {
		if name == "." && strings.Contains(strings.Split(path, "/")[0], ".") {
			return "the root package uses the standard library only"
		}
		return ""
	}
	if imported != owner(imported) && owner(imported) == owner(name) {
		return "" // a private part of the same package
	}
	level, importedLevel := levels()[owner(name)], levels()[owner(imported)]
	if _, ok := levels()[owner(imported)]; !ok {
		return "that package is on no level"
	}
	if importedLevel >= level {
		return fmt.Sprintf("level %d must import lower levels only, that is level %d", level, importedLevel)
	}
	if allowed, ok := gateways()[owner(name)]; ok && !slices.Contains(allowed, imported) {
		return "a gateway sees only " + strings.Join(allowed, ", ")
	}
	return ""
}

// owner is the package of which name is a private part, or name itself:
// node for node/internal/store.
func owner(name string) string {
	before, _, _ := strings.Cut(name, "/internal/")
	return before
}

// inModule returns the import path without the module's path, "." for the root.
func inModule(path string) (name string, ours bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

// listImports asks the go command for all packages of the module.
func listImports(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports", "./...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	imports := make(map[string][]string)
	for dec := json.NewDecoder(out); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name, _ := inModule(p.ImportPath)
		imports[name] = p.Imports
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go list: %v", err)
	}
	return imports
}
