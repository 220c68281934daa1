package apitest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	kubectl "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

// oneAtATime guards what kubectl keeps for its whole process: what to do on a fatal error.
var oneAtATime sync.Mutex

type exit struct {
	message string
	code    int
}

// Kubectl runs kubectl, as it is built from its library, with the administrator's kubeconfig. The error holds what kubectl would
// have said before it exits.
func (c *Cluster) Kubectl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return c.KubectlIn(t, "", args...)
}

// KubectlIn is Kubectl with a manifest where the arguments say "-f -".
func (c *Cluster) KubectlIn(t testing.TB, stdin string, args ...string) (out string, err error) {
	t.Helper()
	oneAtATime.Lock()
	defer oneAtATime.Unlock()
	var stdout, stderr bytes.Buffer
	streams := genericiooptions.IOStreams{In: strings.NewReader(stdin), Out: &stdout, ErrOut: &stderr}
	if stdin != "" { // kubectl reads its own standard input, not the stream that it is given
		file := filepath.Join(t.TempDir(), "stdin.yaml")
		if err := os.WriteFile(file, []byte(stdin), 0o600); err != nil {
			t.Fatal(err)
		}
		args = slices.Clone(args)
		for i := range args {
			if args[i] == "-" {
				args[i] = file
			}
		}
	}
	cmdutil.BehaviorOnFatal(func(message string, code int) { panic(exit{message, code}) })
	defer cmdutil.DefaultBehaviorOnFatal()
	defer func() {
		out = stdout.String()
		if p := recover(); p != nil {
			e, ok := p.(exit)
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("exit %d: %s%s", e.code, stderr.String(), e.message)
		}
	}()
	flags := genericclioptions.NewConfigFlags(true).WithDiscoveryBurst(300).WithDiscoveryQPS(-1)
	cache := t.TempDir()
	flags.CacheDir = &cache
	cmd := kubectl.NewKubectlCommand(kubectl.KubectlOptions{
		ConfigFlags: flags, IOStreams: streams,
	})
	cmd.SetArgs(append([]string{"--kubeconfig", c.Kubeconfig}, args...))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	if runErr := cmd.Execute(); runErr != nil {
		return stdout.String(), fmt.Errorf("%s%w", stderr.String(), runErr)
	}
	return stdout.String(), nil
}

// MustKubectl is Kubectl for commands that have to succeed.
func (c *Cluster) MustKubectl(t testing.TB, args ...string) string {
	t.Helper()
	return c.MustKubectlIn(t, "", args...)
}

// MustKubectlIn is KubectlIn for commands that have to succeed.
func (c *Cluster) MustKubectlIn(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	out, err := c.KubectlIn(t, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}
