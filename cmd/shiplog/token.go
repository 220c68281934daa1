package main

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

func newTokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Tokens with which nodes join"}
	cmd.AddCommand(newTokenCreateCommand())
	return cmd
}

// joinToken is what a token command prints.
type joinToken struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	Join    string    `json:"join"`
}

func newTokenCreateCommand() *cobra.Command {
	var life time.Duration
	var output string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print the command that joins a node with it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := targetOf(cmd).connect()
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(conn.config)
			if err != nil {
				return err
			}
			id, secret := randomWord(6), randomWord(16)
			expires := time.Now().UTC().Add(life).Truncate(time.Second)
			_, err = client.CoreV1().Secrets("kube-system").Create(cmd.Context(), &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id},
				Type:       corev1.SecretTypeBootstrapToken,
				StringData: map[string]string{
					"token-id": id, "token-secret": secret, "expiration": expires.Format(time.RFC3339),
					"usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
					"auth-extra-groups": "system:bootstrappers:shiplog:default-node-token",
				},
			}, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("making the token: %w", err)
			}
			t := joinToken{Token: id + "." + secret, Expires: expires}
			t.Join = fmt.Sprintf("shiplog agent --join %s --token %s", conn.server, t.Token)
			if u, err := url.Parse(conn.server); err == nil && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()) {
				fmt.Fprintln(os.Stderr, "other machines cannot reach "+conn.server+": there, name an address of this one (the API must listen on it: `shiplog up --listen 0.0.0.0:6443`)")
			}
			return printToken(t, output)
		},
	}
	cmd.Flags().DurationVar(&life, "ttl", 24*time.Hour, "how long the token can be used")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func printToken(t joinToken, output string) error {
	switch output {
	case "table":
		_, err := fmt.Printf("token    %s\nexpires  %s\njoin     %s\n", t.Token, t.Expires.Format(time.RFC3339), t.Join)
		return err
	case "json":
		return printJSON(t)
	case "yaml":
		data, err := yaml.Marshal(t)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(data)
		return err
	}
	return fmt.Errorf("-o %s: choose table, json or yaml", output)
}

// randomWord makes a word of the alphabet of bootstrap tokens.
func randomWord(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails: the runtime ends the process when the system has no randomness
	for i, b := range raw {
		// 252 is the largest multiple of 36 in a byte; what lies above would favour the first letters.
		for b >= 252 {
			var one [1]byte
			_, _ = rand.Read(one[:])
			b = one[0]
		}
		raw[i] = alphabet[int(b)%len(alphabet)]
	}
	return string(raw)
}
