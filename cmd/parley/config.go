package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// settle gives the flags that are not on the command line their values from
// the environment or, failing that, from the config file. An empty variable
// counts as none.
func settle(cmd *cobra.Command, env func(string) (string, bool)) error {
	if err := settleEnv(cmd.Flags(), env); err != nil {
		return err
	}
	file := cmd.Flags().Lookup("config")
	if file == nil || file.Value.String() == "" {
		return nil
	}
	return settleFile(cmd, file.Value.String())
}

// envName is the variable for a flag: --idle-timeout is PARLEY_IDLE_TIMEOUT.
func envName(flag string) string {
	return "PARLEY_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func settleEnv(flags *pflag.FlagSet, env func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" {
			return
		}
		name := envName(f.Name)
		value, ok := env(name)
		if !ok || value == "" { // as from ${VARIABLE:-} in a compose file
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s=%q: %w", name, value, errors.Unwrap(err)))
		}
	})
	if len(errs) > 0 {
		return &usageError{errors.Join(errs...)}
	}
	return nil
}

// settleFile reads the config file: keys are flag names, for all commands that
// have the flag; a table named after a command is for that one and goes first.
func settleFile(cmd *cobra.Command, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return &usageError{fmt.Errorf("config file: %w", err)}
	}
	var file map[string]any
	if err := toml.Unmarshal(text, &file); err != nil {
		return usagef("%s: %w", path, err)
	}
	if err := checkKeys(cmd.Root(), file); err != nil {
		return usagef("%s: %w", path, err)
	}
	own, _ := file[topCommand(cmd).Name()].(map[string]any)
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		value, ok := own[f.Name]
		if !ok {
			value, ok = file[f.Name]
		}
		if _, table := value.(map[string]any); f.Changed || !ok || table {
			return
		}
		if err := setFlag(cmd.Flags(), f, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", path, f.Name, err))
		}
	})
	if len(errs) > 0 {
		return &usageError{errors.Join(errs...)}
	}
	return nil
}

// topCommand is the command right below the root to which cmd belongs.
func topCommand(cmd *cobra.Command) *cobra.Command {
	for cmd.HasParent() && cmd.Parent().HasParent() {
		cmd = cmd.Parent()
	}
	return cmd
}

// checkKeys finds keys that no command knows: most likely they are misspelt.
func checkKeys(root *cobra.Command, file map[string]any) error {
	all := map[string]bool{}
	of := map[string]map[string]bool{}
	for _, cmd := range root.Commands() {
		own := flagNames(cmd)
		of[cmd.Name()] = own
		maps.Copy(all, own)
	}
	for _, key := range slices.Sorted(maps.Keys(file)) {
		table, isTable := file[key].(map[string]any)
		switch {
		case !isTable && !all[key]:
			return fmt.Errorf("there is no flag --%s", key)
		case isTable && of[key] == nil:
			return fmt.Errorf("[%s]: there is no such command", key)
		}
		for _, k := range slices.Sorted(maps.Keys(table)) {
			if !of[key][k] {
				return fmt.Errorf("[%s]: 'parley %s' has no flag --%s", key, key, k)
			}
		}
	}
	return nil
}

// flagNames are the flags that a file may set for cmd and its subcommands.
func flagNames(cmd *cobra.Command) map[string]bool {
	names := map[string]bool{}
	add := func(f *pflag.Flag) { names[f.Name] = true }
	cmd.Flags().VisitAll(add)
	cmd.PersistentFlags().VisitAll(add)
	delete(names, "help")
	for _, sub := range cmd.Commands() {
		maps.Copy(names, flagNames(sub))
	}
	return names
}

// setFlag gives a flag a value from TOML.
func setFlag(flags *pflag.FlagSet, f *pflag.Flag, value any) error {
	var texts []string
	list, isList := value.([]any)
	if !isList {
		list = []any{value}
	}
	for _, v := range list {
		switch v.(type) {
		case string, bool, int64, float64:
			texts = append(texts, fmt.Sprint(v))
		default:
			return fmt.Errorf("%v is not a value for a flag", v)
		}
	}
	if slice, ok := f.Value.(pflag.SliceValue); ok && isList {
		f.Changed = true
		return slice.Replace(texts)
	}
	if isList {
		return errors.New("takes one value, not a list")
	}
	if err := flags.Set(f.Name, texts[0]); err != nil {
		return errors.Unwrap(err)
	}
	return nil
}
