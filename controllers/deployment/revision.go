package deployment

import (
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// The annotations in which rollouts are recorded; kubectl rollout reads them.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredAnnotation         = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation             = "deployment.kubernetes.io/max-replicas"

	maxRevisionHistory = 2000 // characters
)

// notCopied are the annotations of a deployment that its replica sets do not take over.
func notCopied(key string) bool {
	switch key {
	case corev1.LastAppliedConfigAnnotation, revisionAnnotation, revisionHistoryAnnotation, desiredAnnotation, maxAnnotation, appsv1.DeprecatedRollbackTo:
		return true
	}
	return false
}

// revisionOf returns the revision of a set; 0 when it has none that can be read.
func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// annotate returns the annotations of the current set: the deployment's (change-cause among them), and its revision, which is
// greater than those of all old sets. The revisions that it had before, when it is rolled back to, are kept.
func annotate(rs *appsv1.ReplicaSet, d *appsv1.Deployment, old []*set) map[string]string {
	annotations := maps.Clone(rs.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !notCopied(k) {
			annotations[k] = v
		}
	}
	next := int64(1)
	for _, s := range old {
		next = max(next, revisionOf(s.now)+1)
	}
	before, had := rs.Annotations[revisionAnnotation]
	had = had && before != ""
	if revisionOf(rs) >= next {
		return annotations
	}
	annotations[revisionAnnotation] = strconv.FormatInt(next, 10)
	if had {
		annotations[revisionHistoryAnnotation] = appendRevision(rs.Annotations[revisionHistoryAnnotation], before)
	}
	return annotations
}

func appendRevision(history, revision string) string {
	if history == "" {
		return revision
	}
	history += "," + revision
	for len(history) > maxRevisionHistory {
		_, rest, ok := strings.Cut(history, ",")
		if !ok {
			break
		}
		history = rest
	}
	return history
}

// sizeAnnotations returns what a set's annotations shall say of the deployment's size, by which it is scaled in proportion.
func sizeAnnotations(d *appsv1.Deployment) map[string]string {
	return map[string]string{
		desiredAnnotation: strconv.Itoa(int(*d.Spec.Replicas)),
		maxAnnotation:     strconv.Itoa(int(*d.Spec.Replicas + maxSurge(d))),
	}
}

// annotationNumber reads a number that is not negative.
func annotationNumber(rs *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[key], 10, 32)
	if err != nil || n < 0 {
		return 0, false
	}
	return int32(n), true
}

// subset says whether all of a is in b.
func subset(a, b map[string]string) bool {
	for k, v := range a {
		if got, ok := b[k]; !ok || got != v {
			return false
		}
	}
	return true
}
