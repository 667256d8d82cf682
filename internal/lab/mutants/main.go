// Mutants plants bugs, one at a time, and wants each of them caught. A checker
// that nothing gets past is worth something only if what should not get past it
// has been tried.
//
// A mutant is a file here: what is wrong, which test must notice, and the lines
// that make it so. The module is not touched: the go command is given the changed
// file in the place of the original (-overlay). See docs/adr/0040.
package main

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed *.mutant
var files embed.FS

// limit is for one run of go test, with the compiler.
const limit = 5 * time.Minute

func main() {
	name := flag.String("mutant", "", "only those of these names, with commas")
	list := flag.Bool("list", false, "only say which there are, as docs/reliability.md has it")
	flag.Parse()
	if err := run(*name, *list); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(name string, list bool) error {
	all, err := mutants()
	if err != nil {
		return err
	}
	if name != "" {
		names := strings.Split(name, ",")
		all = slices.DeleteFunc(all, func(m mutant) bool { return !slices.Contains(names, m.name) })
		if len(all) != len(names) {
			return fmt.Errorf("mutants %s: there are only %d of these", name, len(all))
		}
	}
	if list {
		fmt.Print(table(all))
		return nil
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	survivors := 0
	healthy := make(map[string]bool) // tests that pass without a mutant
	for _, m := range all {
		if test := strings.Join(m.test, " "); !healthy[test] {
			out, err := goTest(root, "", m.test...)
			if err != nil || strings.Contains(out, "no tests to run") {
				return fmt.Errorf("go test %s does not pass without a mutant: %v\n%s", test, err, out)
			}
			healthy[test] = true
		}
		began := time.Now()
		caught, out, err := m.try(root)
		took := time.Since(began).Round(time.Second)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w\n%s", m.name, err, out)
		case caught:
			fmt.Printf("caught   %-28s %4v  %s\n", m.name, took, m.what)
		default:
			survivors++
			fmt.Printf("SURVIVED %-28s %4v  %s\n%s\n", m.name, took, m.what, out)
		}
	}
	if survivors > 0 {
		return fmt.Errorf("%d of %d mutants survived", survivors, len(all))
	}
	fmt.Printf("%d mutants, all caught\n", len(all))
	return nil
}

// mutant is a planted bug.
type mutant struct {
	name  string
	what  string   // is wrong
	test  []string // arguments of go test
	edits []edit
}

// caughtBy is the test in words.
func (m mutant) caughtBy() string {
	words := slices.Clone(m.test)
	switch row := slices.Index(words, "-row"); {
	case words[0] == "./internal/lab":
		return "the simulation"
	case row > 0:
		return "the matrix, `" + words[row+1] + "`"
	}
	if i := slices.Index(words, "-timeout"); i > 0 {
		words = slices.Delete(words, i, i+2)
	}
	return "`" + strings.Join(words, " ") + "`"
}

// table is the list of mutants in docs/reliability.md.
func table(all []mutant) string {
	var b strings.Builder
	b.WriteString("| name | what is wrong | caught by |\n|---|---|---|\n")
	for _, m := range all {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", m.name, m.what, m.caughtBy())
	}
	return b.String()
}

// edit replaces a text that is in a file exactly once.
type edit struct{ file, from, to string }

// mutants reads all of them.
func mutants() ([]mutant, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var all []mutant
	for _, e := range entries {
		b, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		m, err := parse(strings.TrimSuffix(e.Name(), ".mutant"), string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b mutant) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// parse reads
//
//	what: one line
//	test: arguments of go test, with spaces between them
//	file: path in the module
//	<<<
//	the lines as they are
//	===
//	the lines as they shall be
//	>>>
//
// with as many edits as needed, all in one file or in several.
func parse(name, text string) (m mutant, err error) {
	m.name = name
	var file string
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "":
		case "what":
			m.what = value
		case "test":
			m.test = strings.Fields(value)
		case "file":
			file = value
		case "<<<":
			e := edit{file: file}
			var ok1, ok2 bool
			e.from, text, ok1 = strings.Cut(text, "===\n")
			e.to, text, ok2 = strings.Cut(text, ">>>\n")
			if !ok1 || !ok2 || file == "" || e.from == "" {
				return m, fmt.Errorf("an edit is not complete")
			}
			m.edits = append(m.edits, e)
		default:
			return m, fmt.Errorf("line %q", line)
		}
	}
	if m.what == "" || len(m.test) == 0 || len(m.edits) == 0 {
		return m, fmt.Errorf("what, test or an edit is missing")
	}
	return m, nil
}

// changed are the files as the mutant has them, by path in the module.
func (m mutant) changed(root string) (map[string]string, error) {
	texts := make(map[string]string)
	for _, e := range m.edits {
		text, ok := texts[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.from); n != 1 {
			return nil, fmt.Errorf("%s has these lines %d times, not once; adapt the mutant to what the code is now:\n%s", e.file, n, e.from)
		}
		texts[e.file] = strings.Replace(text, e.from, e.to, 1)
	}
	return texts, nil
}

// try plants the bug and runs the test that must fail.
func (m mutant) try(root string) (caught bool, out string, err error) {
	dir, err := os.MkdirTemp("", "parley-mutant-")
	if err != nil {
		return false, "", err
	}
	defer os.RemoveAll(dir)
	overlay, err := m.overlay(root, dir)
	if err != nil {
		return false, "", err
	}
	if out, err := goTest(root, overlay, "-run", "^$", m.test[0]); err != nil {
		return false, out, fmt.Errorf("it does not compile: %w", err)
	}
	out, err = goTest(root, overlay, append([]string{"-count=1"}, m.test...)...)
	return err != nil, out, nil
}

// goTest runs go test, and returns the end of what it says. The overlay is also for
// programs that tests build. What failed simulations keep is thrown away.
func goTest(root, overlay string, args ...string) (out string, err error) {
	dir, err := os.MkdirTemp("", "parley-mutant-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-timeout", "90s"}, args...)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "TMPDIR="+dir)
	if overlay != "" {
		cmd.Env = append(cmd.Env, "GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay)
	}
	cmd.WaitDelay = time.Second
	b, err := cmd.CombinedOutput()
	return tail(string(b)), err
}

// overlay writes the changed files, and what the go command wants to be told
// about them.
func (m mutant) overlay(root, dir string) (path string, err error) {
	texts, err := m.changed(root)
	if err != nil {
		return "", err
	}
	replace := make(map[string]string)
	for file, text := range texts {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, b, 0o600)
}

func tail(s string) string {
	const most = 4000
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}

// moduleRoot is the directory of go.mod.
func moduleRoot() (string, error) {
	b, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	return filepath.Dir(strings.TrimSpace(string(b))), nil
}
