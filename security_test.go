package parley_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatsAreTested: every row of the table of threats in SECURITY.md names
// tests, and they are there.
func TestThreatsAreTested(t *testing.T) {
	text, err := os.ReadFile("SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, problems := checkThreats(string(text))
	if rows < 15 {
		t.Errorf("only %d rows found", rows)
	}
	for _, p := range problems {
		t.Error(p)
	}
	// And the check can fail.
	for _, bad := range []string{
		"| asset | attacker | way in | defence | test |\n|---|---|---|---|---|\n| a | b | c | d | `test.TestThatIsNot` |\n",
		"| asset | attacker | way in | defence | test |\n|---|---|---|---|---|\n| a | b | c | d | we looked |\n",
		"| asset | attacker | way in | defence | test |\n|---|---|---|---|---|\n| a | b |  | d | `test.TestAdmin` |\n",
	} {
		if _, problems := checkThreats(bad); len(problems) != 1 {
			t.Errorf("%q: problems %q", bad, problems)
		}
	}
}

// checkThreats returns the number of rows of the table and what is wrong with them.
func checkThreats(text string) (rows int, problems []string) {
	_, table, _ := strings.Cut(text, "| asset | attacker | way in | defence | test |\n")
	named := regexp.MustCompile("`([a-z/0-9]+|\\.)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 7 {
			break // behind the table
		}
		if strings.HasPrefix(line, "|---") {
			continue
		}
		rows++
		for _, c := range cells[1:6] {
			if strings.TrimSpace(c) == "" {
				problems = append(problems, "an empty cell: "+line)
			}
		}
		tests := named.FindAllStringSubmatch(cells[5], -1)
		if len(tests) == 0 {
			problems = append(problems, "no test is named: "+line)
		}
		for _, m := range tests {
			if !hasTest(m[1], m[2]) {
				problems = append(problems, "there is no "+m[0]+": "+line)
			}
		}
	}
	return rows, problems
}

// hasTest reports whether a package, given by its directory, has a test.
func hasTest(dir, name string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return false
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
