package architecture

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestEveryDirectDependencyIsExplained(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root(t), "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	direct := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1) {
		direct[m[1]] = true
	}
	if len(direct) == 0 {
		t.Fatal("found no direct dependency in go.mod; the pattern of this test is wrong")
	}
	explained := map[string]bool{}
	for _, line := range strings.Split(string(doc), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, module := range strings.Split(cells[1], ",") {
			explained[strings.TrimSpace(module)] = true
		}
	}
	for module := range direct {
		if !explained[module] {
			t.Errorf("%s is a direct dependency that docs/dependencies.md does not explain: say what it is for, or do without it", module)
		}
	}
	for module := range explained {
		if strings.Contains(module, ".") && strings.Contains(module, "/") && !direct[module] {
			t.Errorf("docs/dependencies.md explains %s, which is no direct dependency any more", module)
		}
	}
}

func TestComposeFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(root(t), "docker-compose.yml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct {
			Image     string         `json:"image"`
			DependsOn map[string]any `json:"depends_on"`
		} `json:"services"`
	}
	if err := yaml.Unmarshal(data, &compose); err != nil {
		t.Fatalf("docker-compose.yml: %v", err)
	}
	for _, service := range []string{"eventstore", "postgres", "control-plane"} {
		s, ok := compose.Services[service]
		if !ok {
			t.Errorf("docker-compose.yml has no service %s", service)
		}
		for dep := range s.DependsOn {
			if _, ok := compose.Services[dep]; !ok {
				t.Errorf("service %s depends on %s, which is not there", service, dep)
			}
		}
	}
	// The full check needs docker's compose plugin, which not every machine has.
	if exec.Command("docker", "compose", "version").Run() == nil {
		if out, err := exec.Command("docker", "compose", "-f", file, "config", "--quiet").CombinedOutput(); err != nil {
			t.Errorf("docker compose config: %v\n%s", err, out)
		}
	}
}
