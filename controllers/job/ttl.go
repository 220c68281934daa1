package job

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

// TTL deletes Jobs so many seconds after they have finished.
type TTL struct{}

// NewTTL makes the controller.
func NewTTL() controllers.Controller { return TTL{} }

// Name implements controllers.Controller.
func (TTL) Name() string { return "ttl-after-finished-controller" }

// Inputs implements controllers.Controller.
func (TTL) Inputs() []controllers.Input {
	return []controllers.Input{{Resource: jobs, Why: "those that have finished"}}
}

// Outputs implements controllers.Controller.
func (TTL) Outputs() []controllers.Output {
	return []controllers.Output{{Resource: jobs, Of: "that finished long ago", Deletes: true}}
}

// Reconcile implements controllers.Controller. The key is a Job.
func (TTL) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	j, _, ok := controllers.Fetch[*batchv1.Job](view, key)
	if !ok || j.DeletionTimestamp != nil || j.Spec.TTLSecondsAfterFinished == nil || !finished(&j.Status) {
		return controllers.Decision{}, nil
	}
	var end time.Time
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if is(&j.Status, t) {
			end = condition(&j.Status, t).LastTransitionTime.Time
		}
	}
	if at := end.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second); at.After(now) {
		return controllers.Decision{Again: at}, nil
	}
	remove := controllers.Delete(resources.Jobs, j)
	foreground := metav1.DeletePropagationForeground
	remove.DeleteOptions.PropagationPolicy = &foreground
	return controllers.Decision{Commands: []commands.Command{remove}}, nil
}
