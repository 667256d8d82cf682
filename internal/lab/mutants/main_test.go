package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each mutant fits the code as it is. That they are caught takes longer: make mutants.
func TestMutantsApply(t *testing.T) {
	all, err := mutants()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Errorf("only %d mutants", len(all))
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		texts, err := m.changed(root)
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		for _, e := range m.edits {
			if e.from == e.to || texts[e.file] == "" {
				t.Errorf("%s changes nothing in %s", m.name, e.file)
			}
		}
	}
}

// The page lists all of them, and no others.
func TestMutantsDocumented(t *testing.T) {
	all, err := mutants()
	if err != nil {
		t.Fatal(err)
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "\n\n"+table(all)+"\n") {
		t.Error("docs/reliability.md has another list of planted bugs than: go run ./internal/lab/mutants -list")
	}
}

func TestParse(t *testing.T) {
	m, err := parse("x", "what: wrong\ntest: ./a -run X\nfile: f.go\n<<<\n\ta\n===\n\tb\n>>>\n")
	if err != nil || m.what != "wrong" || len(m.test) != 3 || m.edits[0] != (edit{"f.go", "\ta\n", "\tb\n"}) {
		t.Errorf("%+v %v", m, err)
	}
	for _, bad := range []string{"", "what: x\n", "what: x\ntest: y\nfile: f\n<<<\na\n", "nonsense\n", "<<<\na\n===\nb\n>>>\n"} {
		if _, err := parse("x", bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := (mutant{edits: []edit{{"main_test.go", "no such line\x00", ""}}}).changed("."); err == nil || !strings.Contains(err.Error(), "adapt") {
		t.Errorf("a mutant that does not fit: %v", err)
	}
}
