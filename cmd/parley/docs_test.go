package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestFlagsAreDocumented holds docs/operations.md to the flags and defaults that
// there are.
func TestFlagsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	before, chaos, ok := strings.Cut(string(text), "\n## Making nodes fail")
	chaos, after, ok2 := strings.Cut(chaos, "\n## ")
	if !ok || !ok2 {
		t.Fatal("there is no section about chaos")
	}
	compareFlags(t, newServeCmd(&app{stderr: io.Discard}), before+after)
	compareFlags(t, newChaosCmd(&app{stderr: io.Discard}), chaos)
}

// compareFlags compares the flags of a command with the tables in a text.
func compareFlags(t *testing.T, cmd *cobra.Command, text string) {
	t.Helper()
	rows := map[string]string{} // flag → default
	for _, line := range strings.Split(text, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.HasPrefix(strings.TrimSpace(cells[1]), "`--") {
			for _, flag := range strings.Split(cells[1], ",") {
				rows[strings.Trim(strings.TrimSpace(flag), "`-")] = strings.Trim(strings.TrimSpace(cells[2]), "`")
			}
		}
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		want := strings.Trim(f.DefValue, "[]")
		if want == "false" {
			want = ""
		}
		got, ok := rows[f.Name]
		switch {
		case !ok:
			t.Errorf("%s --%s is not documented", cmd.Name(), f.Name)
		case got != want:
			t.Errorf("%s --%s: documented default %q, is %q", cmd.Name(), f.Name, got, want)
		}
	})
}

// TestEveryFlagHasHelp: a flag without a description is no documented flag.
func TestEveryFlagHasHelp(t *testing.T) {
	root := newRootCmd(&app{})
	for _, cmd := range root.Commands() {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("parley %s --%s has no description", cmd.Name(), f.Name)
			}
		})
		if cmd.Short == "" {
			t.Errorf("parley %s has no description", cmd.Name())
		}
	}
}
