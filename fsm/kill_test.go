package fsm

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

// killSeed is the history that the child process of TestKill applies.
const killSeed, killLength = 11, 8000

// TestKill kills a process that applies a history, again and again at any
// instruction, until it gets to the end.
func TestKill(t *testing.T) {
	if dir := os.Getenv("PARLEY_FSM_KILL_DIR"); dir != "" {
		applyHistory(t, dir)
		return
	}
	h := generate(t, rand.New(rand.NewPCG(killSeed, 0)), killLength)
	dir := t.TempDir()
	kills := 0
	for try := 0; ; try++ {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "PARLEY_FSM_KILL_DIR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(10+rand.IntN(60+try*5))*time.Millisecond, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err == nil {
			break
		}
		if cmd.ProcessState.Exited() {
			t.Fatalf("after %d kills: %v", kills, err)
		}
		kills++
	}
	t.Logf("%d kills", kills)
	if kills < 3 {
		t.Errorf("only %d kills", kills)
	}
	f := start(t, Config{Dir: dir})
	if got := dump(t, f); got != h.dump {
		t.Errorf("got\n%s\nwant\n%s", got, h.dump)
	}
}

// applyHistory goes on with the history from where the state is.
func applyHistory(t *testing.T, dir string) {
	h := generate(t, rand.New(rand.NewPCG(killSeed, 0)), killLength)
	f := start(t, Config{Dir: dir, CheckpointBytes: 1})
	for i, l := range h.logs {
		if r := f.Apply(l); r != ErrApplied {
			h.check(t, i, r)
		}
	}
}
