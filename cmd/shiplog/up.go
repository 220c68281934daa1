package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
)

func newUpCommand() *cobra.Command {
	var (
		config               cluster.Config
		podCIDR, serviceCIDR string
		noNode, background   bool
		verbose              bool
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a cluster: the control plane and, unless --no-node, a node on this machine",
		Long: `Runs a cluster in the foreground. It logs to stderr and prints one line "ready URL" to stdout when the API serves and
the cluster's own nodes are Ready. SIGTERM and SIGINT stop it; containers run on, and are taken over by the next start.
Use "shiplog down" to stop them too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config.DataDir, config.Node, config.Version = dataDir(cmd), !noNode, version
			var err error
			if config.PodCIDR, err = cluster.ParsePrefix("pod-cidr", podCIDR, 8, 24); err != nil {
				return err
			}
			if config.ServiceCIDR, err = cluster.ParsePrefix("service-cidr", serviceCIDR, 12, 24); err != nil {
				return err
			}
			if err := config.Check(); err != nil {
				return err
			}
			if background {
				return detach(cmd.Context(), config.DataDir)
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			config.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			return cluster.Run(cmd.Context(), config, func(url string) { fmt.Println("ready " + url) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.Listen, "listen", "127.0.0.1:6443", "address of the Kubernetes API; port 0 picks one")
	flags.StringVar(&config.GraphQL, "graphql", "127.0.0.1:8089", "address of the GraphQL page; empty for none")
	flags.StringVar(&config.Postgres, "postgres", "", "DSN of the Postgres for the read models (default: a private one in the data directory)")
	flags.StringVar(&config.EventStore, "eventstore", "", "esdb://... of an EventStoreDB for the log (default: embedded in the data directory)")
	flags.StringVar(&config.KEKFile, "kek-file", os.Getenv(cluster.KEKFileEnv), "file of the key that wraps the keys of sealed payloads; made when it is not there (default: in the data directory, or $"+cluster.KEKFileEnv+")")
	flags.StringArrayVar(&config.Seal, "seal", nil, "fields to keep as ciphertext like the payloads of Secrets, as in configmaps:data,binaryData")
	flags.StringVar(&config.StoreListen, "eventstore-listen", "", "address at which the log is served over EventStoreDB's protocol; how to connect is written to eventstore.connection in the data directory")
	flags.StringSliceVar(&config.StoreWrite, "eventstore-write", nil, "beginnings of the streams that clients of --eventstore-listen may write to (default: they only read)")
	flags.BoolVar(&noNode, "no-node", false, "control plane only: run no containers on this machine")
	flags.IntVar(&config.SimNodes, "sim-nodes", 0, "number of simulated nodes")
	flags.StringVar(&podCIDR, "pod-cidr", "10.244.0.0/16", "range of the pods' addresses")
	flags.StringVar(&serviceCIDR, "service-cidr", "10.96.0.0/16", "range of the services' addresses")
	flags.StringVar(&config.ClusterDom, "cluster-domain", "cluster.local", "domain of the cluster's DNS names")
	flags.StringSliceVar(&config.AllowedNames, "tls-san", nil, "further names or addresses under which the API is reached")
	flags.StringVar(&config.NodeName, "node-name", "", "name of this machine's node (default: the host's name)")
	flags.StringVar(&config.NodeListen, "node-listen", ":10250", "address of the node's API (logs, exec)")
	flags.StringVar(&config.Bridge, "bridge", "shiplog0", "network bridge of this node's pods")
	flags.BoolVar(&background, "detach", false, "start in the background, wait until ready, and return")
	flags.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}
