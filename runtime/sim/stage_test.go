package sim

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the files under testdata")

// outcome is what the golden files hold: each step that a pod takes until it takes none.
type outcome struct {
	Stage  string            `json:"stage"`
	In     string            `json:"in"` // how long the pod waits for it
	Delete bool              `json:"delete,omitempty"`
	Status *corev1.PodStatus `json:"status,omitempty"`
}

// TestLives lets each pod under testdata/ live until nothing more happens to it, and compares the steps with the golden file.
func TestLives(t *testing.T) {
	stages, err := DefaultStages()
	if err != nil {
		t.Fatal(err)
	}
	pods, err := filepath.Glob("testdata/*.pod.yaml")
	if err != nil || len(pods) == 0 {
		t.Fatalf("no pods under testdata: %v", err)
	}
	for _, file := range pods {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".pod.yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var pod corev1.Pod
			if err := yaml.UnmarshalStrict(data, &pod); err != nil {
				t.Fatal(err)
			}
			now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
			var life []outcome
			for range 6 {
				env := Env{Now: now, HostIP: "10.250.0.1", PodIP: "10.128.0.7"}
				step, ok := Decide(stages, &pod, env)
				if !ok {
					break
				}
				var waited time.Duration
				if step.At.After(now) {
					waited = step.At.Sub(now)
					now = step.At
					env.Now = now
					if step, ok = Decide(stages, &pod, env); !ok {
						t.Fatal("the step was gone when it was due")
					}
				}
				life = append(life, outcome{step.Stage, waited.String(), step.Delete, step.Status})
				if step.Delete {
					break
				}
				pod.Status = *step.Status
			}
			got, err := yaml.Marshal(life)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".pod.yaml") + ".life.yaml"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("%s (rewrite with -update): -want +got\n%s", golden, d)
			}
		})
	}
}

func TestBadStages(t *testing.T) {
	for name, text := range map[string]string{
		"unknown field":      "- name: a\n  wehn: {}\n",
		"unknown moment":     "- name: a\n  after: {since: dawn}\n",
		"unknown containers": "- name: a\n  next: {containers: asleep}\n",
	} {
		if _, err := ParseStages([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
