package history

import (
	"encoding/json"
	"fmt"
	"strings"
)

// placement is the scheduler's evidence, as it stands in the log.
type placement struct {
	Scheduler string `json:"scheduler"`
	Position  uint64 `json:"position"`
	Node      string `json:"node"`
	Nodes     int    `json:"nodes"`
	Feasible  int    `json:"feasible"`
	Message   string `json:"message"`
	Refused   []struct {
		Filter string   `json:"filter"`
		Reason string   `json:"reason"`
		Count  int      `json:"count"`
		Nodes  []string `json:"nodes"`
	} `json:"refused"`
	Scores    []map[string]any `json:"scores"`
	Nominated string           `json:"nominated"`
	Victims   []string         `json:"victims"`
}

// parts of a score, in the order in which they are told.
var parts = []string{"resources", "balance", "taints", "nodeAffinity", "podAffinity", "spread", "images"}

// evidenceLines tells people what a decision rested on.
func evidenceLines(raw json.RawMessage) []string {
	if len(raw) == 0 {
		return nil
	}
	var p placement
	if json.Unmarshal(raw, &p) != nil || p.Scheduler == "" {
		return []string{"evidence: " + value(raw, 160)}
	}
	var lines []string
	if p.Node == "" {
		lines = append(lines, p.Message)
	}
	for i, s := range p.Scores {
		what := "next best " + fmt.Sprint(s["node"])
		if i == 0 {
			what = fmt.Sprintf("placed on %s, the best of %d nodes that could take it out of %d", p.Node, p.Feasible, p.Nodes)
			if p.Feasible == 1 {
				what = fmt.Sprintf("placed on %s, the only one of %d nodes that could take it", p.Node, p.Nodes)
			}
		}
		var told []string
		for _, part := range parts {
			if v, ok := s[part]; ok {
				told = append(told, fmt.Sprintf("%s %v", part, v))
			}
		}
		lines = append(lines, fmt.Sprintf("%s: score %v (%s)", what, s["total"], strings.Join(told, ", ")))
	}
	for _, r := range p.Refused {
		names := strings.Join(r.Nodes, ", ")
		if more := r.Count - len(r.Nodes); more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		lines = append(lines, fmt.Sprintf("refused: %s: %s (%s)", names, r.Reason, r.Filter))
	}
	if len(p.Victims) > 0 {
		lines = append(lines, fmt.Sprintf("room is made on %s: %s of lower priority had to go", p.Nominated, strings.Join(p.Victims, ", ")))
	}
	return lines
}
