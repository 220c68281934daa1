package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
)

func newAgentCommand() *cobra.Command {
	var c cluster.JoinConfig
	var podCIDR, clusterCIDR, serviceCIDR, dns string
	cmd := &cobra.Command{
		Use:   "agent --join URL --token T",
		Short: "Run a node alone, joined to a control plane elsewhere",
		Long: `Runs a node. It joins with a token that "shiplog token create" prints, and keeps the certificates that it gets in its data
directory: the token is needed at the first start only. It prints one line "ready NAME" to stdout when the node is
registered. SIGTERM and SIGINT stop it; containers run on, and are taken over by the next start.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Server == "" {
				return errors.New("name the control plane with --join https://host:6443")
			}
			var err error
			if c.PodCIDR, err = cluster.ParsePrefix("pod-cidr", podCIDR, 16, 28); err != nil {
				return err
			}
			if c.ClusterCIDR, err = cluster.ParsePrefix("cluster-cidr", clusterCIDR, 8, 24); err != nil {
				return err
			}
			if c.ServiceCIDR, err = cluster.ParsePrefix("service-cidr", serviceCIDR, 12, 24); err != nil {
				return err
			}
			if c.DNS, err = netip.ParseAddr(dns); err != nil {
				return fmt.Errorf("--cluster-dns %s is not an address", dns)
			}
			c.DataDir = dataDir(cmd)
			c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
			return cluster.RunAgent(cmd.Context(), c, func(name string) { fmt.Println("ready " + name) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Server, "join", "", "address of the control plane, https://host:6443")
	flags.StringVar(&c.Token, "token", "", "token to join with, at the first start")
	flags.StringVar(&c.Name, "node-name", "", "name of the node (default: the host's name)")
	flags.StringVar(&c.Listen, "node-listen", ":10250", "address of the node's API (logs, exec)")
	flags.StringVar(&c.Bridge, "bridge", "shiplog0", "network bridge of this node's pods")
	flags.StringVar(&podCIDR, "pod-cidr", "10.244.1.0/24", "range of this node's pods; every node needs its own")
	flags.StringVar(&clusterCIDR, "cluster-cidr", "10.244.0.0/16", "range of all pods")
	flags.StringVar(&serviceCIDR, "service-cidr", "10.96.0.0/16", "range of the services' addresses")
	flags.StringVar(&dns, "cluster-dns", "10.96.0.10", "address of the cluster's name server: the tenth of the service range")
	flags.StringVar(&c.Domain, "cluster-domain", "cluster.local", "domain of the cluster's DNS names")
	return cmd
}
