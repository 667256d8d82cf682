package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/parley-chat/parley"
)

// Exit statuses, documented in docs/operations.md.
const (
	exitDone        = 0
	exitRefused     = 1   // the cluster said no, or something on this machine failed
	exitUsage       = 2   // the command line, environment or config file is wrong
	exitNoAnswer    = 3   // no quorum, or no node reachable
	exitInterrupted = 130 // Ctrl-C before the command was done
)

// usageError is a mistake in how the program was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// quietError sets the exit status after the command has already said why.
type quietError struct{ code int }

func (e *quietError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// exitCode is the exit status for what run returned.
func exitCode(err error) int {
	var quiet *quietError
	var usage *usageError
	var pe *parley.Error
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &quiet):
		return quiet.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &pe):
		if pe.Code.IsAnswer() || pe.Code == parley.CodeBadRequest || pe.Code == parley.CodeUnsupported {
			return exitRefused
		}
		return exitNoAnswer
	case errors.Is(err, context.DeadlineExceeded):
		return exitNoAnswer
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitRefused
}

// exactly is cobra.ExactArgs with an error that counts as usage and says what is expected.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s: %s is missing", cmd.CommandPath(), names[len(args)])
		case len(args) > len(names):
			return usagef("%s: %q is one argument too many", cmd.CommandPath(), args[len(names)])
		}
		return nil
	}
}

// atMost allows up to n arguments.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("%s: %q is one argument too many", cmd.CommandPath(), args[n])
		}
		return nil
	}
}

// atLeast demands the named arguments and allows more.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s: %s is missing", cmd.CommandPath(), names[len(args)])
		}
		return nil
	}
}
