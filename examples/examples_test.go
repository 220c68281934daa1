package examples

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	yamlreader "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// tier is what the two forms of the application have in common.
type tier struct {
	service  corev1.Service
	selector labels.Selector
	template corev1.PodTemplateSpec
	replicas int32
}

func read(t *testing.T, file string) tier {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found tier
	strictly := func(doc []byte, into any) {
		if err := yaml.UnmarshalStrict(doc, into); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	documents := yamlreader.NewDocumentDecoder(io.NopCloser(bytes.NewReader(raw)))
	defer documents.Close()
	buf := make([]byte, len(raw))
	for {
		n, err := documents.Read(buf)
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		doc := buf[:n]
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Fatal(err)
		}
		switch kind.APIVersion + " " + kind.Kind {
		case "v1 Service":
			strictly(doc, &found.service)
		case "v1 ReplicationController":
			var rc corev1.ReplicationController
			strictly(doc, &rc)
			found.selector, found.template, found.replicas = labels.SelectorFromSet(rc.Spec.Selector), *rc.Spec.Template, *rc.Spec.Replicas
		case "apps/v1 Deployment":
			var d appsv1.Deployment
			strictly(doc, &d)
			if found.selector, err = metav1.LabelSelectorAsSelector(d.Spec.Selector); err != nil {
				t.Fatal(err)
			}
			found.template, found.replicas = d.Spec.Template, *d.Spec.Replicas
		default:
			t.Errorf("%s holds a %v", file, kind)
		}
	}
}

func TestManifestsFitTogether(t *testing.T) {
	var built []string
	for _, image := range Images() {
		built = append(built, image.Ref)
	}
	for _, dir := range []string{"two-tier", "two-tier-deployments"} {
		for _, name := range []string{"1-store.yaml", "2-web.yaml"} {
			file := filepath.Join(dir, name)
			tier := read(t, file)
			pod := labels.Set(tier.template.Labels)
			if tier.replicas < 1 || !tier.selector.Matches(pod) || !labels.SelectorFromSet(tier.service.Spec.Selector).Matches(pod) {
				t.Errorf("%s: the selectors do not choose pods with the labels %v", file, pod)
			}
			c := tier.template.Spec.Containers[0]
			if !slices.Contains(built, c.Image) || c.ImagePullPolicy != corev1.PullIfNotPresent {
				t.Errorf("%s: image %s (%s) is not one of %v", file, c.Image, c.ImagePullPolicy, built)
			}
			target := tier.service.Spec.Ports[0].TargetPort.StrVal
			if !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == target && p.ContainerPort == 8080 }) {
				t.Errorf("%s: the service leads to port %q, the container has %v", file, target, c.Ports)
			}
			if c.LivenessProbe == nil || c.ReadinessProbe == nil || c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
				t.Errorf("%s: probes, requests and limits are part of the example", file)
			}
		}
		web := read(t, filepath.Join(dir, "2-web.yaml")).service.Spec
		if web.Type != corev1.ServiceTypeNodePort || web.Ports[0].NodePort != 30001 {
			t.Errorf("%s: the web tier is reached by %s %d", dir, web.Type, web.Ports[0].NodePort)
		}
	}
}
