package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

func newKubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--data-dir D] ARGS...",
		Short: "kubectl with this cluster's kubeconfig",
		Example: `  shiplog kubectl get pods -A
  shiplog kubectl --data-dir /srv/ship logs -f web-1`,
		// Everything after the word kubectl is kubectl's.
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			named, args := takeFlag(args, "data-dir")
			if !hasFlag(args, "kubeconfig") && !isLocal(args) {
				path, err := target{dir: named}.path()
				if err != nil {
					return err
				}
				if err := os.Setenv("KUBECONFIG", path); err != nil {
					return err
				}
			}
			return runKubectl(args, nil)
		},
	}
}

// runKubectl runs the embedded kubectl. kubectl ends the process by itself when something fails; before is called then, and
// before a normal return.
func runKubectl(args []string, before func()) error {
	if before != nil {
		defer before()
		cmdutil.BehaviorOnFatal(func(message string, code int) {
			before()
			if message != "" {
				os.Stderr.WriteString(strings.TrimSuffix(message, "\n") + "\n")
			}
			os.Exit(code)
		})
	}
	// kubectl reads its own command line for plugins and for the words of its messages.
	os.Args = append([]string{"kubectl"}, args...)
	command := cmd.NewDefaultKubectlCommand()
	command.SetArgs(args)
	if err := cli.RunNoErrOutput(command); err != nil {
		cmdutil.CheckErr(err)
	}
	return nil
}

// takeFlag removes a flag and its value from arguments that are otherwise somebody else's.
func takeFlag(args []string, name string) (value string, rest []string) {
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return value, append(rest, args[i:]...)
		}
		if v, ok := strings.CutPrefix(args[i], "--"+name+"="); ok {
			value = v
			continue
		}
		if args[i] == "--"+name && i+1 < len(args) {
			i++
			value = args[i]
			continue
		}
		rest = append(rest, args[i])
	}
	return value, rest
}

func hasFlag(args []string, name string) bool {
	value, _ := takeFlag(args, name)
	return value != ""
}

// isLocal says whether kubectl can do this without a cluster.
func isLocal(args []string) bool {
	if len(args) == 0 {
		return true
	}
	switch args[0] {
	case "help", "completion", "options", "kustomize", "-h", "--help", "plugin":
		return true
	}
	return false
}
