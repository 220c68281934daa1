package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/shiplog/shiplog/controllers/standard"
	"github.com/shiplog/shiplog/domain"
)

func newControllersCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "controllers",
		Short: "Print which controller reads and writes what",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			registry, err := standard.Registry(standard.Options{Kinds: domain.NewSet(domain.Kinds())})
			if err != nil {
				return err
			}
			graph := registry.Graph()
			switch output {
			case "table":
				_, err = os.Stdout.WriteString(graph.Text())
			case "dot":
				_, err = os.Stdout.WriteString(graph.DOT())
			case "json", "yaml":
				var data []byte
				if data, err = graph.JSON(); err != nil {
					return err
				}
				if output == "yaml" {
					if data, err = yaml.JSONToYAML(data); err != nil {
						return err
					}
				}
				_, err = fmt.Println(string(data))
			default:
				return fmt.Errorf("-o %s: choose table, dot, json or yaml", output)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, dot, json or yaml")
	return cmd
}
