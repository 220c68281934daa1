package controllers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Graph is who reads and writes what, for people to look at.
type Graph struct {
	Controllers []GraphNode `json:"controllers"`
}

// GraphNode is one controller with its edges.
type GraphNode struct {
	Name    string        `json:"name"`
	Inputs  []GraphInput  `json:"inputs"`
	Outputs []GraphOutput `json:"outputs,omitempty"`
}

// GraphInput is a resource that a controller reads.
type GraphInput struct {
	Resource string `json:"resource"`
	Why      string `json:"why,omitempty"`
}

// GraphOutput is what a controller writes of a resource.
type GraphOutput struct {
	Resource string   `json:"resource"`
	Of       string   `json:"of,omitempty"`
	Fields   []string `json:"fields,omitempty"`
	Creates  bool     `json:"creates,omitempty"`
	Deletes  bool     `json:"deletes,omitempty"`
}

func (o GraphOutput) what() string {
	var parts []string
	if o.Creates {
		parts = append(parts, "create")
	}
	if o.Deletes {
		parts = append(parts, "delete")
	}
	parts = append(parts, o.Fields...)
	return strings.Join(parts, ", ")
}

// Graph returns the graph of all controllers, ordered by name.
func (r *Registry) Graph() Graph {
	var g Graph
	for _, c := range r.controllers {
		n := GraphNode{Name: c.Name()}
		for _, in := range c.Inputs() {
			n.Inputs = append(n.Inputs, GraphInput{Resource: in.Resource.String(), Why: in.Why})
		}
		for _, out := range c.Outputs() {
			n.Outputs = append(n.Outputs, GraphOutput{
				Resource: out.Resource.String(), Of: out.Of, Fields: slices.Clone(out.Fields), Creates: out.Creates, Deletes: out.Deletes,
			})
		}
		g.Controllers = append(g.Controllers, n)
	}
	return g
}

// Text is the graph as a list.
func (g Graph) Text() string {
	var b strings.Builder
	for _, n := range g.Controllers {
		fmt.Fprintf(&b, "%s\n", n.Name)
		for _, in := range n.Inputs {
			fmt.Fprintf(&b, "  reads  %s%s\n", in.Resource, note(in.Why))
		}
		for _, out := range n.Outputs {
			fmt.Fprintf(&b, "  writes %s%s: %s\n", out.Resource, note(out.Of), out.what())
		}
	}
	return b.String()
}

// DOT is the graph in Graphviz' language.
func (g Graph) DOT() string {
	var b strings.Builder
	b.WriteString("digraph controllers {\n  rankdir=LR;\n  node [shape=ellipse];\n")
	for _, n := range g.Controllers {
		fmt.Fprintf(&b, "  %q [shape=box];\n", n.Name)
		for _, in := range n.Inputs {
			fmt.Fprintf(&b, "  %q -> %q [label=%q];\n", in.Resource, n.Name, in.Why)
		}
		for _, out := range n.Outputs {
			label := out.what()
			if out.Of != "" {
				label += "\n" + out.Of
			}
			fmt.Fprintf(&b, "  %q -> %q [label=%q, style=bold];\n", n.Name, out.Resource, label)
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// JSON is the graph as an indented JSON document.
func (g Graph) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the graph of controllers: %w", err)
	}
	return append(data, '\n'), nil
}

func note(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
