package esdb

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
)

// address is what a connection string says.
type address struct {
	config esdb.Configuration
	hosts  string // for people: without credentials
}

// settings are those that a connection string may hold. The client would pass over a misspelt one in silence, "tIs=false" and
// "tlsCaFlie" included.
var settings = []string{
	"tls", "tlsCAFile", "tlsVerifyCert", "userCertFile", "userKeyFile", "nodePreference", "keepAliveInterval", "keepAliveTimeout",
	"maxDiscoverAttempts", "discoveryInterval", "gossipTimeout", "defaultDeadline",
}

// gossipSeconds is how long one node is asked who leads, unless the connection string says otherwise.
const gossipSeconds = 2

func parseAddress(connectionString string) (address, error) {
	scheme, rest, _ := strings.Cut(connectionString, "://")
	if scheme != "esdb" && scheme != "esdb+discover" {
		return address{}, errors.New("it begins with neither esdb:// nor esdb+discover://")
	}
	hosts, query, _ := strings.Cut(rest, "?")
	hosts = hosts[strings.LastIndexByte(hosts, '@')+1:]
	given, err := url.ParseQuery(query)
	if err != nil {
		return address{}, fmt.Errorf("its settings: %w", err)
	}
	gossip := false
	for key := range given {
		if !known(key) {
			return address{}, fmt.Errorf("it has a setting %q, which there is not: there are %s", key, strings.Join(settings, ", "))
		}
		gossip = gossip || strings.EqualFold(key, "gossipTimeout")
	}
	config, err := esdb.ParseConnectionString(connectionString)
	if err != nil {
		return address{}, err // the client's messages name settings and hosts, not credentials
	}
	if config.DisableTLS && config.Username != "" {
		return address{}, errors.New("it holds a password, which would not be sent without TLS: remove tls=false or the password")
	}
	if err := config.Validate(); err != nil {
		return address{}, err
	}
	if config.UserCertFile != "" {
		// Read at each connection; said at the first.
		if _, err := tls.LoadX509KeyPair(config.UserCertFile, config.UserKeyFile); err != nil {
			return address{}, fmt.Errorf("its user certificate: %w", err)
		}
	}
	// One round a client: how long to go on trying is decided here, where the caller's context is known.
	config.MaxDiscoverAttempts = 1
	config.DiscoveryInterval = 0
	if !gossip {
		config.GossipTimeout = gossipSeconds
	}
	return address{config: *config, hosts: strings.TrimSuffix(hosts, "/")}, nil
}

func known(setting string) bool {
	for _, s := range settings {
		if strings.EqualFold(s, setting) {
			return true
		}
	}
	return false
}

// WithoutPassword is a connection string as it may be printed. What is none stays as it is.
func WithoutPassword(connectionString string) string {
	scheme, rest, ok := strings.Cut(connectionString, "://")
	if !ok {
		return connectionString
	}
	hosts, query, _ := strings.Cut(rest, "?")
	at := strings.LastIndexByte(hosts, '@') // a password may hold another
	if at < 0 {
		return connectionString
	}
	user, _, _ := strings.Cut(hosts[:at], ":")
	out := scheme + "://" + user + hosts[at:]
	if query != "" {
		out += "?" + query
	}
	return out
}
