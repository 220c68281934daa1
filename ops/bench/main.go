// Command bench measures the built binary as a user meets it and prints one line a figure. Every figure of
// docs/performance.md comes from here; nothing in it decides whether a test passes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"
)

// measurement is one scenario: it starts what it needs, measures, and reports lines.
type measurement struct {
	name string
	doc  string
	run  func(ctx context.Context, b *bench) error
}

var measurements = []measurement{
	{"start", "from exec to the ready line, with an empty log and with 1,000,000 events of 20,000 objects, with and without a snapshot", measureStart},
	{"idle", "memory and CPU of everything, Postgres included, empty", measureIdle},
	{"writes", "ConfigMap creates and patches and Secret creates through the API, 1 and 32 clients", measureWrites},
	{"pods", "1,000 simulated pods on 100 nodes: create to all available; list of 2,000; memory and CPU then", measurePods},
	{"replay", "start with 100,000 events; rebuild of the read models", measureReplay},
	{"log", "durable appends beside the raw disk and etcd, fan-out, bytes on disk per revision", measureLog},
	{"tend", "verify, back up, restore and copy a log of 1,000,000 events", measureTend},
	{"containers", "one real pod from create to Running, and 50 at once (root)", measureContainers},
}

type bench struct {
	bin  string
	etcd etcd
	out  *tabwriter.Writer
}

// report prints a figure as soon as it is known.
func (b *bench) report(what, format string, args ...any) {
	fmt.Fprintf(b.out, "%s\t%s\n", what, fmt.Sprintf(format, args...))
	b.out.Flush()
}

func main() {
	var names []string
	for _, m := range measurements {
		names = append(names, m.name)
	}
	bin := flag.String("bin", "bin/shiplog", "the binary to measure")
	etcdDir := flag.String("etcd", "bin/etcd", "where etcd and its benchmark tool are (ops/scripts/etcd.sh builds them)")
	only := flag.String("only", strings.Join(names, ","), "which to run, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{bin: *bin, etcd: findEtcd(ctx, *etcdDir), out: tabwriter.NewWriter(os.Stdout, 60, 0, 2, ' ', 0)}
	for name := range strings.SplitSeq(*only, ",") {
		i := slices.IndexFunc(measurements, func(m measurement) bool { return m.name == name })
		if i < 0 {
			fmt.Fprintf(os.Stderr, "bench: no measurement %q; there are %s\n", name, strings.Join(names, ", "))
			os.Exit(2)
		}
		fmt.Fprintf(os.Stderr, "bench: %s: %s\n", name, measurements[i].doc)
		if err := measurements[i].run(ctx, b); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}
