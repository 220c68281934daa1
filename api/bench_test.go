package api_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/shiplog/shiplog/api/apitest"
	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
)

func clients(b *testing.B, c *apitest.Cluster, n int) []kubernetes.Interface {
	b.Helper()
	out := make([]kubernetes.Interface, n)
	for i := range out {
		client, err := kubernetes.NewForConfig(c.Admin)
		if err != nil {
			b.Fatal(err)
		}
		out[i] = client
	}
	return out
}

// spread runs b.N steps on n clients.
func spread(b *testing.B, cs []kubernetes.Interface, step func(client kubernetes.Interface, i int64) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for _, client := range cs {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				if err := step(client, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func configMap(i int64) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cm-%d", i)}, Data: map[string]string{"key": "value", "i": fmt.Sprint(i)},
	}
}

func BenchmarkConfigMaps(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{1, 32} {
		b.Run(fmt.Sprintf("create/clients=%d", n), func(b *testing.B) {
			c := apitest.Start(b)
			spread(b, clients(b, c, n), func(client kubernetes.Interface, i int64) error {
				_, err := client.CoreV1().ConfigMaps("default").Create(ctx, configMap(i), metav1.CreateOptions{})
				return err
			})
		})
		b.Run(fmt.Sprintf("patch/clients=%d", n), func(b *testing.B) {
			c := apitest.Start(b)
			for i := range int64(64) {
				if _, err := c.Client.CoreV1().ConfigMaps("default").Create(ctx, configMap(i), metav1.CreateOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			spread(b, clients(b, c, n), func(client kubernetes.Interface, i int64) error {
				patch := fmt.Appendf(nil, `{"data":{"i":"%d"}}`, i+1000)
				_, err := client.CoreV1().ConfigMaps("default").Patch(ctx, fmt.Sprintf("cm-%d", i%64), types.MergePatchType, patch, metav1.PatchOptions{})
				return err
			})
		})
	}
}

func BenchmarkBusCreate(b *testing.B) {
	for _, n := range []int{1, 32} {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			c := apitest.Start(b)
			spread(b, make([]kubernetes.Interface, n), func(_ kubernetes.Interface, i int64) error {
				_, err := c.Bus.Do(context.Background(), commands.Command{
					Verb: commands.Create, Resource: corev1.SchemeGroupVersion.WithResource("configmaps"), Namespace: "default",
					Object: configMap(i), Actor: domain.Actor{User: "system:bench"},
				})
				return err
			})
		})
	}
}

func benchPod(i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", i), Namespace: "default", Labels: map[string]string{"app": "web", "n": fmt.Sprint(i % 10)}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "example.org/web:1", Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
			Env: []corev1.EnvVar{{Name: "A", Value: "b"}, {Name: "C", Value: "d"}},
		}}},
	}
}

func BenchmarkListPods(b *testing.B) {
	c := apitest.Start(b)
	ctx := context.Background()
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < 2000; i += 16 {
				_, err := c.Bus.Do(ctx, commands.Command{
					Verb: commands.Create, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Namespace: "default",
					Object: benchPod(i), Actor: domain.Actor{User: "system:bench"},
				})
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		b.Run(accept[len("application/"):], func(b *testing.B) {
			conf := *c.Admin
			conf.AcceptContentTypes = accept
			client, err := kubernetes.NewForConfig(&conf)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				raw, err := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/pods").SetHeader("Accept", accept).DoRaw(ctx)
				if err != nil || len(raw) < 1000 {
					b.Fatal(len(raw), err)
				}
			}
		})
	}
}

// BenchmarkIdle reports what a control plane without anything to do keeps in memory, before and after its first write by HTTP.
func BenchmarkIdle(b *testing.B) {
	c := apitest.Start(b)
	for b.Loop() {
		runtime.Gosched()
	}
	report := func(when string) {
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/1e6, when+"-heap-MB")
		b.ReportMetric(float64(resident(b))/1e6, when+"-rss-MB")
		b.ReportMetric(float64(runtime.NumGoroutine()), when+"-goroutines")
	}
	report("new")
	if _, err := c.Client.CoreV1().ConfigMaps("default").Create(context.Background(), configMap(1), metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	report("written")
}

func resident(b *testing.B) int {
	b.Helper()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	var size, rss int
	if _, err := fmt.Sscan(string(data), &size, &rss); err != nil {
		b.Fatal(err)
	}
	return rss * os.Getpagesize()
}
