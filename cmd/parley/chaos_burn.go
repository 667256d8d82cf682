package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
)

// burners are processes that do nothing but compete for the processors. Each has
// a pipe from this process for its standard input and ends when that does, so
// none outlives this process.
type burners struct {
	cmds  []*exec.Cmd
	pipes []io.Closer
}

// startBurners starts n processes of the program.
func startBurners(program string, n int) (*burners, error) {
	b := new(burners)
	for range n {
		cmd := exec.Command(program, "chaos", "burn")
		for _, kv := range os.Environ() {
			if !strings.HasPrefix(kv, "PARLEY_") { // those are for this process
				cmd.Env = append(cmd.Env, kv)
			}
		}
		pipe, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start a burner: %w", err), b.close())
		}
		b.cmds, b.pipes = append(b.cmds, cmd), append(b.pipes, pipe)
	}
	return b, nil
}

// close ends the processes. One that had ended before is an error.
func (b *burners) close() error {
	var errs []error
	for _, pipe := range b.pipes {
		errs = append(errs, pipe.Close())
	}
	for _, cmd := range b.cmds {
		if err := cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("a burner ended: %w", err))
		}
	}
	return errors.Join(errs...)
}

// newBurnCmd is what a burner runs.
func newBurnCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "burn",
		Short:  "Keep one processor busy until standard input ends",
		Hidden: true,
		Args:   exactly(),
		RunE: func(*cobra.Command, []string) error {
			go func() {
				for n := 0; ; n++ {
				}
			}()
			_, err := io.Copy(io.Discard, a.stdin)
			return err
		},
	}
}
