package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/shiplog/shiplog/projections/postgres"
)

// TendPrefix is the path under which a running cluster lets its read models be rebuilt and verified, and its log.
const TendPrefix = "/shiplog/v1/tend/"

// Step is one line of the answer to a long request: progress, or the end.
type Step struct {
	Message string `json:"message,omitempty"`
	Done    bool   `json:"done,omitempty"`
	Failed  bool   `json:"failed,omitempty"` // with Done: what was asked for did not succeed; Message says why
	// Log is, with Done, what the verification of the log has found.
	Log *LogReport `json:"log,omitempty"`
}

// Tend asks a running cluster to "rebuild" or "verify" and reports each step. It returns the last one.
func Tend(ctx context.Context, client *http.Client, server, what string, models []string, report func(Step)) (Step, error) {
	return ask(ctx, client, server, what, models, report)
}

// VerifyLog asks a running cluster to verify its log.
func VerifyLog(ctx context.Context, client *http.Client, server string, q LogQuestion, report func(Step)) (*LogReport, error) {
	last, err := ask(ctx, client, server, verifyLogTask, q, report)
	if err == nil && last.Log == nil {
		err = errors.New(last.Message)
	}
	return last.Log, err
}

const verifyLogTask = "verify-log"

// ask makes a long request and reports each step. It returns the last one.
func ask(ctx context.Context, client *http.Client, server, what string, question any, report func(Step)) (Step, error) {
	body, err := json.Marshal(question)
	if err != nil {
		return Step{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server+TendPrefix+what, strings.NewReader(string(body)))
	if err != nil {
		return Step{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Step{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // the status says enough when the text cannot be read
		return Step{}, fmt.Errorf("asking the cluster to %s: %s: %s", what, resp.Status, strings.TrimSpace(string(text)))
	}
	for lines := json.NewDecoder(resp.Body); ; {
		var step Step
		if err := lines.Decode(&step); err != nil {
			return Step{}, fmt.Errorf("the cluster stopped answering before it was done: %w", err)
		}
		if step.Done {
			_, _ = io.Copy(io.Discard, resp.Body) // the server ends in peace
			return step, nil
		}
		report(step)
	}
}

// answering reads what is asked before a task begins.
func answering[Q any](task func(context.Context, Q, func(Step)) Step) func(context.Context, []byte, func(Step)) Step {
	return func(ctx context.Context, question []byte, report func(Step)) Step {
		var q Q
		if err := json.Unmarshal(question, &q); err != nil {
			return Step{Failed: true, Message: "reading what is asked: " + err.Error()}
		}
		return task(ctx, q, report)
	}
}

// tendHandler lets the models be tended while the cluster runs. The API server has authorized the request.
func (cp *controlPlane) tendHandler() http.Handler {
	tasks := map[string]func(ctx context.Context, question []byte, report func(Step)) Step{
		"rebuild": answering(func(ctx context.Context, models []string, report func(Step)) Step {
			return cp.tendRead(ctx, report, func(m *postgres.Models) Step { return rebuild(ctx, m, models, report) })
		}),
		"verify": answering(func(ctx context.Context, _ []string, report func(Step)) Step {
			return cp.verifyAll(ctx, report)
		}),
		verifyLogTask: answering(cp.verifyLogStep),
		"rotate":      answering(func(context.Context, []string, func(Step)) Step { return rotate(cp.keys) }),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		task, ok := tasks[strings.TrimPrefix(r.URL.Path, TendPrefix)]
		if !ok || r.Method != http.MethodPost {
			names := slices.Sorted(func(yield func(string) bool) {
				for name := range tasks {
					if !yield(name) {
						return
					}
				}
			})
			http.Error(w, fmt.Sprintf("POST to %s followed by one of %s", TendPrefix, strings.Join(names, ", ")), http.StatusNotFound)
			return
		}
		question, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
		if err != nil {
			http.Error(w, "reading what is asked: "+err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/jsonl")
		lines := json.NewEncoder(w)
		flush := http.NewResponseController(w)
		say := func(s Step) {
			if err := lines.Encode(s); err == nil {
				_ = flush.Flush() // whoever went away needs no progress
			}
		}
		last := task(r.Context(), question, say)
		last.Done = true
		say(last)
	})
}
