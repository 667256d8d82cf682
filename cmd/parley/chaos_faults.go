package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley/internal/chaos"
)

// mixed stands for all faults that need no help from the network.
const mixed = "mixed"

// faultNames are what --fault takes.
func faultNames() []string {
	names := []string{mixed}
	for _, f := range chaos.Faults() {
		names = append(names, string(f))
	}
	return names
}

// parseFaults makes sense of --fault.
func parseFaults(names []string) ([]chaos.Fault, error) {
	var faults []chaos.Fault
	for _, name := range names {
		name = strings.TrimSpace(name)
		switch {
		case name == mixed:
			faults = append(faults, chaos.Kill, chaos.Freeze, chaos.Term)
		case slices.Contains(chaos.Faults(), chaos.Fault(name)):
			faults = append(faults, chaos.Fault(name))
		case name == "transfer":
			return nil, usagef("--fault: a node hands leadership over only when it is stopped; that is term")
		default:
			return nil, usagef("--fault: %q is none of %s", name, strings.Join(faultNames(), ", "))
		}
	}
	if len(faults) == 0 {
		return nil, usagef("--fault: none given; for none at all there is --steady")
	}
	return faults, nil
}

// completeFaults completes the last of several names.
func completeFaults(_ *cobra.Command, _ []string, text string) ([]string, cobra.ShellCompDirective) {
	before := text[:strings.LastIndex(text, ",")+1]
	var list []string
	for _, name := range faultNames() {
		list = append(list, before+name)
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
