package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/parley-chat/parley/internal/check"
)

// composeRows are about the containers of docker-compose.yml. They do not start
// processes of their own: deploy/chaos-compose.sh is cluster, load and judge.
func composeRows() []row {
	var rows []row
	for _, f := range []struct{ name, fault, happens string }{
		{"compose-kill", "kill", "containers are killed (`docker kill`), mostly the leader's"},
		{"compose-pause", "freeze", "containers are paused (`docker pause`) for 3 s, mostly the leader's"},
		{"compose-disconnect", "cut", "containers are cut off from the others (`docker network disconnect`), mostly the leader's"},
	} {
		rows = append(rows, row{
			name: f.name, happens: f.happens + ", for 40 s", passes: "delivery checker only",
			needs: []need{needCompose}, run: func(e *episode) { compose(e, f.fault) },
		})
	}
	return rows
}

var needCompose = need{"Docker with Compose", func() string {
	if out, err := exec.Command("docker", "version").CombinedOutput(); err != nil {
		return fmt.Sprintf("docker version: %v: %.100s", err, out)
	}
	if exec.Command("docker", "compose", "version").Run() != nil && exec.Command("docker-compose", "version").Run() != nil {
		return "there is no Compose"
	}
	return ""
}}

func compose(e *episode, fault string) {
	log, err := os.Create(filepath.Join(e.dir, "compose.log"))
	if err != nil {
		e.Fatal(err)
	}
	defer log.Close()
	cmd := exec.CommandContext(e.Context(), "deploy/chaos-compose.sh", "--fault", fault, "--duration", "40s", "--json")
	cmd.Dir, cmd.Stderr = "..", log
	out, err := cmd.Output()
	_, _ = log.Write(out)
	var v struct {
		check.Verdict
		Kills int
	}
	if jerr := json.Unmarshal(out, &v); jerr != nil {
		e.Fatalf("%s: %v, %v: %.1000s", cmd, err, jerr, out)
	}
	e.delivery = v.Verdict
	e.faults["container "+fault] += v.Kills
	if err != nil || !v.OK() || v.Acknowledged == 0 || v.Kills == 0 {
		e.Errorf("%s: %v: %v, %d faults", cmd, err, v.Verdict, v.Kills)
	}
}
