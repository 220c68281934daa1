package server

import (
	"fmt"
	"net/http"
	"sort"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/shiplog/shiplog/runtime/containers"
)

// NodeStats is what the node and its pods use.
type NodeStats struct {
	Node    containers.Usage
	Started time.Time
	// DiskTotal and DiskFree are of the data directory's file system, in bytes.
	DiskTotal, DiskFree uint64
	MemoryTotal         uint64
	Pods                []PodStats
}

// PodStats is what a pod uses.
type PodStats struct {
	Namespace, Name, UID string
	Started              time.Time
	Usage                containers.Usage
	Containers           []ContainerStats
}

// ContainerStats is what a container uses.
type ContainerStats struct {
	Name    string
	Started time.Time
	Usage   containers.Usage
}

func cpu(u containers.Usage) *stats.CPUStats {
	n := uint64(u.CPU)
	return &stats.CPUStats{Time: metav1.NewTime(u.Time), UsageCoreNanoSeconds: &n}
}

func memory(u containers.Usage) *stats.MemoryStats {
	return &stats.MemoryStats{Time: metav1.NewTime(u.Time), UsageBytes: &u.Memory, WorkingSetBytes: &u.WorkingSet, RSSBytes: &u.RSS}
}

func (s *Server) summary(w http.ResponseWriter, _ *http.Request) {
	n := s.cfg.Node.Stats()
	used := n.DiskTotal - n.DiskFree
	out := stats.Summary{Node: stats.NodeStats{
		NodeName: s.cfg.Node.Name(), StartTime: metav1.NewTime(n.Started), CPU: cpu(n.Node), Memory: memory(n.Node),
		Fs: &stats.FsStats{Time: metav1.NewTime(n.Node.Time), CapacityBytes: &n.DiskTotal, AvailableBytes: &n.DiskFree, UsedBytes: &used},
	}}
	for _, p := range n.Pods {
		pod := stats.PodStats{
			PodRef: stats.PodReference{Name: p.Name, Namespace: p.Namespace, UID: p.UID}, StartTime: metav1.NewTime(p.Started),
			CPU: cpu(p.Usage), Memory: memory(p.Usage), ProcessStats: &stats.ProcessStats{ProcessCount: &p.Usage.Processes},
		}
		for _, c := range p.Containers {
			pod.Containers = append(pod.Containers, stats.ContainerStats{
				Name: c.Name, StartTime: metav1.NewTime(c.Started), CPU: cpu(c.Usage), Memory: memory(c.Usage),
			})
		}
		out.Pods = append(out.Pods, pod)
	}
	writeJSON(w, &out)
}

// resourceMetrics is what metrics-server asks for, in the text format of Prometheus.
func (s *Server) resourceMetrics(w http.ResponseWriter, _ *http.Request) {
	n := s.cfg.Node.Stats()
	families := map[string][]string{}
	add := func(name, labels string, value float64, at time.Time) {
		if labels != "" {
			labels = "{" + labels + "}"
		}
		families[name] = append(families[name], fmt.Sprintf("%s%s %g %d", name, labels, value, at.UnixMilli()))
	}
	use := func(prefix, labels string, u containers.Usage, started time.Time) {
		add(prefix+"_cpu_usage_seconds_total", labels, u.CPU.Seconds(), u.Time)
		add(prefix+"_memory_working_set_bytes", labels, float64(u.WorkingSet), u.Time)
		if prefix == "container" {
			add("container_start_time_seconds", labels, float64(started.UnixNano())/1e9, u.Time)
		}
	}
	use("node", "", n.Node, n.Started)
	for _, p := range n.Pods {
		use("pod", fmt.Sprintf("namespace=%q,pod=%q", p.Namespace, p.Name), p.Usage, p.Started)
		for _, c := range p.Containers {
			use("container", fmt.Sprintf("container=%q,namespace=%q,pod=%q", c.Name, p.Namespace, p.Name), c.Usage, c.Started)
		}
	}
	names := make([]string, 0, len(families))
	for name := range families {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		kind := "gauge"
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		fmt.Fprintf(&b, "# HELP %s Use of resources as the control groups count it.\n# TYPE %s %s\n%s\n", name, name, kind, strings.Join(families[name], "\n"))
	}
	b.WriteString("# HELP resource_scrape_error 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n")
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(b.String()))
}
