package esdb_test

import (
	"testing"

	"github.com/shiplog/shiplog/eventstore/esdb"
)

func TestWithoutPassword(t *testing.T) {
	for connection, want := range map[string]string{
		"esdb://admin:secret@a:1,b:2?tls=false":         "esdb://admin@a:1,b:2?tls=false",
		"esdb://admin:se@cr:et@a:1":                     "esdb://admin@a:1",
		"esdb+discover://admin:s@a?tlsCAFile=/x@y/ca.c": "esdb+discover://admin@a?tlsCAFile=/x@y/ca.c",
		"esdb://a:1?tls=false":                          "esdb://a:1?tls=false",
		"esdb://admin@a:1":                              "esdb://admin@a:1",
		"/var/lib/shiplog":                              "/var/lib/shiplog",
		"":                                              "",
	} {
		if got := esdb.WithoutPassword(connection); got != want {
			t.Errorf("%s is printed as %s, want %s", connection, got, want)
		}
	}
}
