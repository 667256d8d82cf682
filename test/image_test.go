package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The image has nothing in it but the program, which runs as nobody in
// particular; and the containers have no privileges and cannot write but to their
// volumes. Where Docker answers and the image has been built, it is asked itself.
func TestImage(t *testing.T) {
	file, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := strings.Split(string(file), "\nFROM ")
	last := "\nFROM " + stages[len(stages)-1]
	if !strings.HasPrefix(last, "\nFROM scratch\n") { // no shell, no package manager
		t.Errorf("the image is made from something: %s", last)
	}
	if !strings.Contains(last, "\nUSER 65532:65532\n") || strings.Contains(last, "\nRUN ") {
		t.Errorf("the image's user or contents: %s", last)
	}
	for name, want := range map[string][]string{
		"../docker-compose.yml": {"read_only: true", `cap_drop: ["ALL"]`, `security_opt: ["no-new-privileges:true"]`},
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s does not say %s", name, w)
			}
		}
		if strings.Contains(string(text), "privileged: true") || strings.Contains(string(text), "cap_add") {
			t.Errorf("%s gives privileges", name)
		}
	}

	out, err := exec.CommandContext(t.Context(), "docker", "image", "inspect", "parley:local").Output()
	if err != nil {
		t.Log("no Docker engine answers, or the image is not built: the files have been looked at only")
		return
	}
	var images []struct {
		Config struct {
			User       string
			Entrypoint []string
		}
		RootFS struct{ Layers []string }
	}
	if err := json.Unmarshal(out, &images); err != nil || len(images) != 1 {
		t.Fatalf("docker image inspect: %v: %s", err, out)
	}
	c := images[0].Config
	if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/bin/parley"}) || len(images[0].RootFS.Layers) > 3 {
		t.Errorf("the image that is built: %+v", images[0])
	}
}
