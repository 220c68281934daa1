package domain

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
)

// revisionAnnotation counts the templates that a deployment has had, revisionHistoryAnnotation lists the numbers that a
// template had before it became the newest again.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
)

func deploymentKinds() []Kind {
	return []Kind{{
		Group: "apps", Version: "v1", Kind: "Deployment", Resource: "deployments", ShortNames: []string{"deploy"}, Namespaced: true,
		New:   func() runtime.Object { return &appsv1.Deployment{} },
		Words: deploymentWords(),
	}}
}

func deploymentWords() []Word {
	templateDiffers := func(b, a *appsv1.Deployment) bool {
		return !equality.Semantic.DeepEqual(b.Spec.Template, a.Spec.Template)
	}
	return []Word{
		changed("DeploymentDeletionRequested", "Somebody asked for the deployment's deletion; its pods are being deleted.", deletionRequested[*appsv1.Deployment]),
		// A rollback cannot be told from the patch of kubectl rollout undo, which is a change of the template like any other. The
		// deployment controller sees that the template is that of an older replica set and notes the set's former revisions on
		// the deployment too.
		changed("DeploymentRolledBack", "The deployment went back to an earlier template.", func(b, a *appsv1.Deployment) bool {
			if history := a.Annotations[revisionHistoryAnnotation]; history != "" && history != b.Annotations[revisionHistoryAnnotation] {
				return true
			}
			before, errB := strconv.ParseInt(b.Annotations[revisionAnnotation], 10, 64)
			after, errA := strconv.ParseInt(a.Annotations[revisionAnnotation], 10, 64)
			return templateDiffers(b, a) && errB == nil && errA == nil && after < before
		}),
		changed("DeploymentImageChanged", "A container is to run another image.", func(b, a *appsv1.Deployment) bool {
			return imagesDiffer(&b.Spec.Template.Spec, &a.Spec.Template.Spec)
		}),
		changed("DeploymentRestarted", "Somebody asked for all pods to be replaced by new ones of the same template.", func(b, a *appsv1.Deployment) bool {
			const restartedAt = "kubectl.kubernetes.io/restartedAt"
			return b.Spec.Template.Annotations[restartedAt] != a.Spec.Template.Annotations[restartedAt]
		}),
		changed("DeploymentTemplateChanged", "What the pods are to be changed.", templateDiffers),
		changed("DeploymentScaled", "Another number of pods is wanted.", func(b, a *appsv1.Deployment) bool {
			return replicas(b.Spec.Replicas) != replicas(a.Spec.Replicas)
		}),
		changed("DeploymentPaused", "Changes of the template are held back until the deployment is resumed.", func(b, a *appsv1.Deployment) bool {
			return a.Spec.Paused && !b.Spec.Paused
		}),
		changed("DeploymentResumed", "Changes of the template are rolled out again.", func(b, a *appsv1.Deployment) bool {
			return !a.Spec.Paused && b.Spec.Paused
		}),
		changed("DeploymentStalled", "The rollout made no progress for longer than its deadline.", func(b, a *appsv1.Deployment) bool {
			return deploymentReason(a, appsv1.DeploymentProgressing) == "ProgressDeadlineExceeded" && deploymentReason(b, appsv1.DeploymentProgressing) != "ProgressDeadlineExceeded"
		}),
		changed("DeploymentCompleted", "The rollout is complete: all wanted pods are of the newest template and available.", func(b, a *appsv1.Deployment) bool {
			return rolledOut(a) && !rolledOut(b)
		}),
		changed("DeploymentProgressed", "The rollout went on: more, or fewer, pods are updated, ready or available.", func(b, a *appsv1.Deployment) bool {
			x, y := &b.Status, &a.Status
			return x.Replicas != y.Replicas || x.UpdatedReplicas != y.UpdatedReplicas || x.ReadyReplicas != y.ReadyReplicas ||
				x.AvailableReplicas != y.AvailableReplicas || x.UnavailableReplicas != y.UnavailableReplicas
		}),
		changed("DeploymentAvailable", "Enough pods became available.", func(b, a *appsv1.Deployment) bool {
			return deploymentCondition(a, appsv1.DeploymentAvailable) == corev1.ConditionTrue && deploymentCondition(b, appsv1.DeploymentAvailable) != corev1.ConditionTrue
		}),
		changed("DeploymentUnavailable", "Too few pods are available.", func(b, a *appsv1.Deployment) bool {
			return deploymentCondition(a, appsv1.DeploymentAvailable) != corev1.ConditionTrue && deploymentCondition(b, appsv1.DeploymentAvailable) == corev1.ConditionTrue
		}),
	}
}

// rolledOut says what kubectl rollout status waits for.
func rolledOut(d *appsv1.Deployment) bool {
	want := replicas(d.Spec.Replicas)
	return d.Status.ObservedGeneration >= d.Generation && want > 0 && d.Status.Replicas == want &&
		d.Status.UpdatedReplicas == want && d.Status.AvailableReplicas == want
}

func deploymentCondition(d *appsv1.Deployment, t appsv1.DeploymentConditionType) corev1.ConditionStatus {
	for i := range d.Status.Conditions {
		if c := &d.Status.Conditions[i]; c.Type == t {
			return c.Status
		}
	}
	return ""
}

func deploymentReason(d *appsv1.Deployment, t appsv1.DeploymentConditionType) string {
	for i := range d.Status.Conditions {
		if c := &d.Status.Conditions[i]; c.Type == t {
			return c.Reason
		}
	}
	return ""
}
