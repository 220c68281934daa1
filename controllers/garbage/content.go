package garbage

import (
	"encoding/json"
	"fmt"

	"github.com/shiplog/shiplog/projections"
)

// contentOf reads an object of which no Go type is at hand.
func contentOf(o *projections.Object) (map[string]any, error) {
	var m map[string]any
	if err := json.Unmarshal(o.JSON, &m); err != nil {
		return nil, fmt.Errorf("reading %s: %w", o.Ref, err)
	}
	return m, nil
}
