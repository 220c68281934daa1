package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/shiplog/shiplog/runtime/agent"
	"github.com/shiplog/shiplog/runtime/images"
	"github.com/shiplog/shiplog/runtime/images/client"
)

func newImageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "The images of this machine's node: load, ls, rm, pull"}
	cmd.AddCommand(newImageLoadCommand(), newImageListCommand(), newImageRemoveCommand(), newImagePullCommand())
	return cmd
}

// nodeImages asks the node that runs in a data directory.
func nodeImages(cmd *cobra.Command) *client.Client {
	return client.New(agent.ImageSocket(filepath.Join(dataDir(cmd), "node")))
}

func newImageLoadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "load FILE...",
		Short: "Load images from archives: `docker save` or OCI, plain or compressed",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if err := loadImage(cmd, name); err != nil {
					return fmt.Errorf("loading %s: %w", name, err)
				}
			}
			return nil
		},
	}
}

func loadImage(cmd *cobra.Command, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	loaded, err := nodeImages(cmd).Load(cmd.Context(), file)
	if err != nil {
		return err
	}
	for _, image := range loaded {
		fmt.Printf("loaded %s (%s)\n", strings.Join(image.Tags, ", "), short(image.ID))
	}
	return nil
}

func newImageListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the node's images",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := nodeImages(cmd).List(cmd.Context())
			if err != nil {
				return err
			}
			switch output {
			case "json":
				return printJSON(list)
			case "yaml":
				data, err := yaml.Marshal(list)
				if err != nil {
					return err
				}
				_, err = os.Stdout.Write(data)
				return err
			case "table":
				return printImages(list)
			}
			return fmt.Errorf("-o %s: choose table, json or yaml", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func printImages(list []images.Image) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tID\tSIZE\tLOADED")
	for _, image := range list {
		names := image.Tags
		if len(names) == 0 {
			names = image.Digests
		}
		if len(names) == 0 {
			names = []string{"<none>"}
		}
		for _, name := range names {
			fmt.Fprintf(table, "%s\t%s\t%.1f MB\t%s\n", name, short(image.ID), float64(image.Size)/1e6, image.Loaded.Local().Format(time.DateTime))
		}
	}
	return table.Flush()
}

func newImageRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm IMAGE...",
		Aliases: []string{"remove"},
		Short:   "Remove images, or names of images, from the node",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, ref := range args {
				said, err := nodeImages(cmd).Remove(cmd.Context(), ref)
				if err != nil {
					return fmt.Errorf("removing %s: %w", ref, err)
				}
				for _, line := range said {
					fmt.Println(line)
				}
			}
			return nil
		},
	}
}

func newImagePullCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "pull IMAGE...",
		Short: "Pull images from their registries onto the node",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var credentials []byte
			if config != "" {
				var err error
				if credentials, err = os.ReadFile(config); err != nil {
					return fmt.Errorf("reading the credentials: %w", err)
				}
			}
			for _, ref := range args {
				image, err := nodeImages(cmd).Pull(cmd.Context(), ref, credentials, func(p images.Progress) {
					if p.Complete {
						fmt.Fprintf(os.Stderr, "%s: layer %s is there\n", ref, short(p.Layer))
					}
				})
				if err != nil {
					return fmt.Errorf("pulling %s: %w", ref, err)
				}
				fmt.Printf("pulled %s (%s)\n", ref, short(image.ID))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "docker-config", "", "file with registry credentials, as docker's config.json")
	return cmd
}

// short is a digest as people tell it apart by.
func short(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(12, len(hex))]
}
