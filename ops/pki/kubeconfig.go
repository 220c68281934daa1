package pki

import (
	"encoding/base64"
	"fmt"
	"os"
)

// Kubeconfig returns a kubeconfig for a server with a client certificate, all inside.
func (p *PKI) Kubeconfig(server, user string, cert, key []byte) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: shiplog
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: %s
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: shiplog
  context:
    cluster: shiplog
    user: %s
current-context: shiplog
`, server, b64(p.caPEM), user, b64(cert), b64(key), user)
}

// WriteAdminKubeconfig writes the administrator's kubeconfig, readable by its owner alone.
func (p *PKI) WriteAdminKubeconfig(path, server string) error {
	cert, err := os.ReadFile(p.Path(AdminCert))
	if err != nil {
		return fmt.Errorf("reading the administrator's certificate: %w", err)
	}
	key, err := os.ReadFile(p.Path(AdminKey))
	if err != nil {
		return fmt.Errorf("reading the administrator's key: %w", err)
	}
	return write(path, p.Kubeconfig(server, "admin", cert, key), 0o600)
}
