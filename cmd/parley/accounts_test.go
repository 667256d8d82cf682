package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestAccounts runs the scripts about accounts against a cluster of its own, for
// they change who may do what.
func TestAccounts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	d := startDev(t, t.TempDir())
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/accounts", RequireExplicitExec: true, Cmds: scriptCmds(),
			Setup: func(env *testscript.Env) error {
				env.Setenv("PARLEY_SERVERS", d.servers())
				env.Setenv("PARLEY_ADMIN_SOCKET", filepath.Join(d.dir, "n1", adminSocketName))
				env.Setenv("LOGS", d.dir)
				return nil
			},
		})
	})
	d.stop()
}
