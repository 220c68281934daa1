package images

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Credentials are what docker's configuration files and image pull secrets hold: a user and password for registries, host
// patterns ("*.example.com") and repository prefixes ("example.com/team"). The zero value holds none. They are an
// authn.Keychain; for each repository the most specific entry counts.
type Credentials struct {
	entries []credential
}

type credential struct {
	host, path string
	auth       authn.AuthConfig
}

// ParseDockerConfigJSON reads the payload of a kubernetes.io/dockerconfigjson secret ({"auths": ...}), and of docker's config.json.
func ParseDockerConfigJSON(data []byte) (Credentials, error) {
	var file struct {
		Auths map[string]authn.AuthConfig `json:"auths"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return Credentials{}, fmt.Errorf("reading docker credentials: %w", err)
	}
	return newCredentials(file.Auths), nil
}

// ParseDockerCfg reads the payload of an old kubernetes.io/dockercfg secret: the same without the outer "auths".
func ParseDockerCfg(data []byte) (Credentials, error) {
	var auths map[string]authn.AuthConfig
	if err := json.Unmarshal(data, &auths); err != nil {
		return Credentials{}, fmt.Errorf("reading docker credentials: %w", err)
	}
	return newCredentials(auths), nil
}

func newCredentials(auths map[string]authn.AuthConfig) Credentials {
	var c Credentials
	for key, auth := range auths {
		if !strings.Contains(key, "://") {
			key = "https://" + key
		}
		u, err := url.Parse(key)
		if err != nil || u.Host == "" {
			continue // an entry nobody can match must not hide the others
		}
		p := strings.Trim(u.Path, "/")
		if p == "v1" || p == "v2" {
			p = ""
		}
		c.entries = append(c.entries, credential{host: hubHost(u.Host), path: p, auth: auth})
	}
	c.sort()
	return c
}

// Join returns the credentials of all.
func Join(all ...Credentials) Credentials {
	var c Credentials
	for _, one := range all {
		c.entries = append(c.entries, one.entries...)
	}
	c.sort()
	return c
}

func (c *Credentials) sort() {
	sort.SliceStable(c.entries, func(i, j int) bool {
		a, b := c.entries[i], c.entries[j]
		if len(a.path) != len(b.path) {
			return len(a.path) > len(b.path)
		}
		if aw, bw := strings.Contains(a.host, "*"), strings.Contains(b.host, "*"); aw != bw {
			return bw
		}
		if a.host != b.host {
			return a.host < b.host
		}
		return a.path < b.path
	})
}

// Resolve implements authn.Keychain.
func (c Credentials) Resolve(target authn.Resource) (authn.Authenticator, error) {
	host := hubHost(target.RegistryStr())
	_, repo, _ := strings.Cut(target.String(), "/")
	for _, e := range c.entries {
		if !hostMatches(e.host, host) {
			continue
		}
		if e.path != "" && repo != e.path && !strings.HasPrefix(repo, e.path+"/") {
			continue
		}
		return authn.FromConfig(e.auth), nil
	}
	return authn.Anonymous, nil
}

// hubHost gives the many names of Docker Hub one.
func hubHost(host string) string {
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "docker.io":
		return "docker.io"
	}
	return host
}

// hostMatches compares label by label: a star stands for one label or a part of one, never for dots.
func hostMatches(pattern, host string) bool {
	if pattern == host {
		return true
	}
	if !strings.Contains(pattern, "*") {
		return false
	}
	ps, hs := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(ps) != len(hs) {
		return false
	}
	for i := range ps {
		if ok, err := path.Match(ps[i], hs[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
