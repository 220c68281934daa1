package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/shiplog/shiplog/internal/testimage"
)

const (
	protobuf = "application/vnd.kubernetes.protobuf"
	asJSON   = "application/json"
)

func measureStart(ctx context.Context, b *bench) error {
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	if err := b.startAndStop(ctx, dir, "start, first time", 1); err != nil {
		return err
	}
	if err := b.startAndStop(ctx, dir, "start, empty log, best of 5", 5); err != nil {
		return err
	}
	return measureBigStart(ctx, b)
}

// startAndStop reports the quickest of some starts.
func (b *bench) startAndStop(ctx context.Context, dir, what string, times int) error {
	var best time.Duration
	var memory int64
	for range times {
		i, err := b.start(ctx, dir, "", "--no-node")
		if err != nil {
			return err
		}
		used, err := i.usage()
		if err := errors.Join(err, i.stop()); err != nil {
			return err
		}
		if best == 0 || i.ready < best {
			best, memory = i.ready, used.memory
		}
	}
	b.report(what, "%d ms (memory of all processes then: %d MB)", best.Milliseconds(), memory>>20)
	return nil
}

// measureBigStart starts on a log of a million events, without a snapshot and with the one that the first stop has left.
func measureBigStart(ctx context.Context, b *bench) error {
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	began := time.Now()
	if err := makeBigLog(ctx, dir+"/log"); err != nil {
		return err
	}
	took := time.Since(began)
	b.report("writing 1,000,000 events of 20,000 objects, 256 writers, 5 an append", "%.1f s (%.0f events/s)", took.Seconds(), bigEvents/took.Seconds())
	i, err := b.start(ctx, dir, "", "--no-node")
	if err != nil {
		return err
	}
	b.report("start, 1,000,000 events of 20,000 objects, without a snapshot", "%d ms", i.ready.Milliseconds())
	// The read models are built meanwhile, and would be again at the next start if it came too early.
	if err := i.caughtUp(ctx); err != nil {
		return errors.Join(err, i.stop())
	}
	if err := i.stop(); err != nil {
		return err
	}
	return b.startAndStop(ctx, dir, "start, 1,000,000 events of 20,000 objects, with a snapshot, best of 3", 3)
}

func measureIdle(ctx context.Context, b *bench) error {
	return b.with(ctx, []string{"--no-node"}, func(i *instance) error {
		return b.settled(i, "idle, empty", 20*time.Second, 30*time.Second)
	})
}

// with runs a scenario against a cluster of its own.
func (b *bench) with(ctx context.Context, args []string, f func(*instance) error) error {
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	i, err := b.start(ctx, dir, "", args...)
	if err != nil {
		return err
	}
	return errors.Join(f(i), i.stop())
}

func measureWrites(ctx context.Context, b *bench) error {
	return b.with(ctx, []string{"--no-node"}, func(i *instance) error {
		client, err := i.client(protobuf)
		if err != nil {
			return err
		}
		maps := client.CoreV1().ConfigMaps("default")
		create := func(n int64) error {
			_, err := maps.Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%d", n)},
				Data:       map[string]string{"key": strings.Repeat("x", 200)},
			}, metav1.CreateOptions{})
			return err
		}
		patch := func(n int64) error {
			_, err := maps.Patch(ctx, fmt.Sprintf("bench-%d", 1+n%100), types.MergePatchType, fmt.Appendf(nil, `{"data":{"n":"%d"}}`, n), metav1.PatchOptions{})
			return err
		}
		secrets := client.CoreV1().Secrets("default")
		createSecret := func(n int64) error {
			_, err := secrets.Create(ctx, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%d", n)},
				Data:       map[string][]byte{"key": bytes.Repeat([]byte("x"), 200)},
			}, metav1.CreateOptions{})
			return err
		}
		var serial atomic.Int64
		for _, m := range []struct {
			what    string
			clients int
			do      func(int64) error
		}{
			{"ConfigMap creates", 1, create},
			{"ConfigMap creates", 32, create},
			{"ConfigMap patches", 1, patch},
			{"ConfigMap patches", 32, patch},
			{"Secret creates", 1, createSecret},
			{"Secret creates", 32, createSecret},
		} {
			rate, p50, p99, err := load(m.clients, 8*time.Second, func() error { return m.do(serial.Add(1)) })
			if err != nil {
				return err
			}
			b.report(fmt.Sprintf("%s, %d client(s)", m.what, m.clients), "%.0f/s (p50 %.1f ms, p99 %.1f ms)", rate, ms(p50), ms(p99))
		}
		return nil
	})
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// load calls f from so many goroutines for a while.
func load(clients int, during time.Duration, f func() error) (rate float64, p50, p99 time.Duration, err error) {
	var mu sync.Mutex
	var latencies []time.Duration
	var failed error
	var wg sync.WaitGroup
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for time.Since(began) < during {
				start := time.Now()
				err := f()
				mu.Lock()
				latencies = append(latencies, time.Since(start))
				if err != nil {
					failed = err
				}
				stop := failed != nil
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return 0, 0, 0, failed
	}
	took := time.Since(began)
	slices.Sort(latencies)
	return float64(len(latencies)) / took.Seconds(), latencies[len(latencies)/2], latencies[len(latencies)*99/100], nil
}

func fleet(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.invalid/c:1"}}},
			},
		},
	}
}

func deploy(ctx context.Context, client *kubernetes.Clientset, name string, replicas int32) (time.Duration, error) {
	began := time.Now()
	deployments := client.AppsV1().Deployments("default")
	w, err := deployments.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	if _, err := deployments.Create(ctx, fleet(name, replicas), metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			return 0, fmt.Errorf("watching the deployment: %v", event.Object)
		}
		if d, ok := event.Object.(*appsv1.Deployment); ok && d.Status.AvailableReplicas == replicas {
			return time.Since(began), nil
		}
	}
	return 0, errors.New("the watch on the deployment ended before it was available")
}

func measurePods(ctx context.Context, b *bench) error {
	return b.with(ctx, []string{"--no-node", "--sim-nodes", "100"}, func(i *instance) error {
		client, err := i.client(protobuf)
		if err != nil {
			return err
		}
		for _, name := range []string{"first", "second"} {
			took, err := deploy(ctx, client, name, 1000)
			if err != nil {
				return err
			}
			b.report("1,000 simulated pods on 100 nodes, create to all available ("+name+")", "%.1f s", took.Seconds())
		}
		for _, form := range []string{protobuf, asJSON} {
			lister, err := i.client(form)
			if err != nil {
				return err
			}
			var best time.Duration
			for range 5 {
				began := time.Now()
				list, err := lister.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
				if err != nil {
					return err
				}
				if len(list.Items) != 2000 {
					return fmt.Errorf("listed %d pods", len(list.Items))
				}
				if took := time.Since(began); best == 0 || took < best {
					best = took
				}
			}
			b.report("list of 2,000 pods, "+form+", best of 5", "%.0f ms", ms(best))
		}
		return b.settled(i, "idle, 100 nodes, 2,000 pods", 20*time.Second, 30*time.Second)
	})
}

func measureReplay(ctx context.Context, b *bench) error {
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	i, err := b.start(ctx, dir, "", "--no-node")
	if err != nil {
		return err
	}
	client, err := i.client(protobuf)
	if err != nil {
		return err
	}
	maps := client.CoreV1().ConfigMaps("default")
	const objects, events = 2000, 100_000
	var n atomic.Int64
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for range 32 {
		wg.Go(func() {
			for failed.Load() == nil {
				k := n.Add(1)
				if k > events {
					return
				}
				var err error
				if k <= objects {
					_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("replay-%d", k)}}, metav1.CreateOptions{})
				} else {
					// The first writes of an object may still be on their way; patches of it create nothing.
					_, err = maps.Patch(ctx, fmt.Sprintf("replay-%d", 1+k%(objects/2)), types.MergePatchType, fmt.Appendf(nil, `{"data":{"n":"%d"}}`, k), metav1.PatchOptions{})
				}
				if err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	began := time.Now()
	out, err := exec.CommandContext(ctx, b.bin, "rebuild", "--data-dir", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("rebuilding: %w\n%s", err, out)
	}
	took := time.Since(began)
	b.report("rebuild of the read models, 100,000 events", "%.1f s (%.0f events/s)", took.Seconds(), events/took.Seconds())
	if err := i.stop(); err != nil {
		return err
	}
	if i, err = b.start(ctx, dir, "", "--no-node"); err != nil {
		return err
	}
	b.report("start, 100,000 events", "%d ms", i.ready.Milliseconds())
	return i.stop()
}

func measureContainers(ctx context.Context, b *bench) error {
	if os.Geteuid() != 0 {
		return errors.New("real containers need root")
	}
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	i, err := b.start(ctx, dir, "")
	if err != nil {
		return err
	}
	defer func() { _ = exec.Command(b.bin, "down", "--data-dir", dir).Run() }()
	archive := dir + "/busybox.tar"
	if err := testimage.Busybox(ctx, "shiplog.local/busybox:1.0", archive); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, b.bin, "image", "load", "--data-dir", dir, archive).CombinedOutput(); err != nil {
		return fmt.Errorf("loading the image: %w\n%s", err, out)
	}
	client, err := i.client(protobuf)
	if err != nil {
		return err
	}
	var single []time.Duration
	for n := range 20 {
		took, err := runPods(ctx, client, fmt.Sprintf("one-%d", n), 1)
		if err != nil {
			return err
		}
		single = append(single, took)
	}
	slices.Sort(single)
	b.report("one pod, image present, create to Running, 20 times", "p50 %d ms, max %d ms", single[10].Milliseconds(), single[19].Milliseconds())
	took, err := runPods(ctx, client, "many", 50)
	if err != nil {
		return err
	}
	b.report("50 pods at once, create to all Running", "%.1f s", took.Seconds())
	if err := b.settled(i, "idle, one real node, 50 pods deleted", 20*time.Second, 20*time.Second); err != nil {
		return err
	}
	return i.stop()
}

// runPods creates pods, waits until all run, and deletes them.
func runPods(ctx context.Context, client *kubernetes.Clientset, name string, count int) (time.Duration, error) {
	pods := client.CoreV1().Pods("default")
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "bench=" + name})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	began := time.Now()
	grace := int64(0)
	for n := range count {
		if _, err := pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", name, n), Labels: map[string]string{"bench": name}},
			Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: &grace,
				Containers:                    []corev1.Container{{Name: "c", Image: "shiplog.local/busybox:1.0", Command: []string{"/bin/busybox", "sleep", "3600"}}},
			},
		}, metav1.CreateOptions{}); err != nil {
			return 0, err
		}
	}
	running := map[string]bool{}
	for event := range w.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			return 0, fmt.Errorf("watching pods: %v", event.Object)
		}
		if pod.Status.Phase == corev1.PodFailed {
			return 0, fmt.Errorf("pod %s failed: %s", pod.Name, pod.Status.Message)
		}
		if pod.Status.Phase == corev1.PodRunning {
			running[pod.Name] = true
		}
		if len(running) == count {
			break
		}
	}
	took := time.Since(began)
	return took, pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "bench=" + name})
}
