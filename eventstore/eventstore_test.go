package eventstore_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shiplog/shiplog/eventstore"
)

func TestFilterAdmits(t *testing.T) {
	for _, c := range []struct {
		name         string
		filter       eventstore.Filter
		stream, kind string
		want         bool
	}{
		{"nothing asked", eventstore.Filter{}, "pods-a/x", "PodCreated", true},
		{"system stream", eventstore.Filter{}, "$$pods-a/x", "$metadata", false},
		{"system type", eventstore.Filter{}, "pods-a/x", "$streamDeleted", false},
		{"system asked", eventstore.Filter{System: true}, "$$pods-a/x", "$metadata", true},
		{"stream", eventstore.Filter{StreamPrefixes: []string{"nodes-", "pods-"}}, "pods-a/x", "PodCreated", true},
		{"other stream", eventstore.Filter{StreamPrefixes: []string{"nodes-"}}, "pods-a/x", "PodCreated", false},
		{"type", eventstore.Filter{TypePrefixes: []string{"Pod"}}, "pods-a/x", "PodCreated", true},
		{"stream but not type", eventstore.Filter{StreamPrefixes: []string{"pods-"}, TypePrefixes: []string{"Node"}}, "pods-a/x", "PodCreated", false},
		{"system prefix without system", eventstore.Filter{StreamPrefixes: []string{"$"}}, "$stats", "A", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.filter.Admits(c.stream, c.kind); got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}

func TestMetadataIsThatOfEventStoreDB(t *testing.T) {
	m := eventstore.Metadata{
		MaxCount: 3, MaxAge: 1500 * time.Millisecond, TruncateBefore: eventstore.DeletedTruncateBefore, Custom: map[string]any{"$acl": "x", "a": 1.0},
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"$acl":"x","$maxAge":2,"$maxCount":3,"$tb":9223372036854775807,"a":1}`; string(data) != want {
		t.Errorf("got %s, want %s", data, want)
	}
	var got eventstore.Metadata
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	m.MaxAge = 2 * time.Second
	if diff := cmp.Diff(m, got); diff != "" {
		t.Errorf("metadata differs (-written +read):\n%s", diff)
	}
	for _, bad := range []string{`[]`, `{"$maxCount":-1}`, `{"$maxAge":"long"}`, `{"$maxAge":-5}`, `{"$tb":1.5}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s was read as %+v", bad, got)
		}
	}
	if _, err := json.Marshal(eventstore.Metadata{Custom: map[string]any{"$maxCount": 1}}); err == nil {
		t.Error("a custom $maxCount was written")
	}
}
