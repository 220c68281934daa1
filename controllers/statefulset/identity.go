package statefulset

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/history"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

func asSet(l map[string]string) labels.Set { return l }

// span returns the first ordinal and the number of pods.
func span(set *appsv1.StatefulSet) (start, n int) {
	if o := set.Spec.Ordinals; o != nil {
		start = int(o.Start)
	}
	n = 1
	if set.Spec.Replicas != nil {
		n = int(*set.Spec.Replicas)
	}
	return start, n
}

func partition(set *appsv1.StatefulSet) int {
	if ru := set.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil {
		return int(*ru.Partition)
	}
	return 0
}

func maxUnavailable(set *appsv1.StatefulSet) int {
	ru := set.Spec.UpdateStrategy.RollingUpdate
	if ru == nil || ru.MaxUnavailable == nil {
		return 1
	}
	_, n := span(set)
	u, err := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, n, true)
	if err != nil { // refused by validation
		return 1
	}
	return max(1, u)
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

// parse splits the name of a pod into its set's and its ordinal.
func parse(name string) (set string, ordinal int, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return "", 0, false
	}
	n, err := strconv.Atoi(name[i+1:])
	if err != nil || n < 0 || strconv.Itoa(n) != name[i+1:] {
		return "", 0, false
	}
	return name[:i], n, true
}

func revisionOf(p *corev1.Pod) string { return p.Labels[appsv1.ControllerRevisionHashLabelKey] }

// missingClaims makes the claims that a pod needs and that are not there.
func (l *look) missingClaims(ordinal int) []commands.Command {
	var cs []commands.Command
	for i := range l.set.Spec.VolumeClaimTemplates {
		claim := l.claim(&l.set.Spec.VolumeClaimTemplates[i], ordinal)
		if _, ok := l.view.Get(claims, claim.Namespace, claim.Name); !ok {
			cs = append(cs, controllers.Create(resources.PersistentVolumeClaims, claim))
		}
	}
	return cs
}

// create makes a pod.
func (l *look) create(ordinal int) (commands.Command, error) {
	start, _ := span(l.set)
	revision := l.update
	// A pod below the partition, or one that a rollout has not come to, comes back as it was.
	rolling := l.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType
	if rolling && ordinal < start+partition(l.set) {
		revision = l.current
	}
	template, err := history.Template(revision)
	if err != nil {
		return commands.Command{}, err
	}
	name := podName(l.set, ordinal)
	p := pods.FromTemplate(template, l.set.Namespace, name, l.set.Name+"-", *metav1.NewControllerRef(l.set, kind))
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.StatefulSetPodNameLabel] = name
	p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	p.Labels[appsv1.ControllerRevisionHashLabelKey] = revision.Name
	p.Spec.Hostname, p.Spec.Subdomain = name, l.set.Spec.ServiceName
	for i := range l.set.Spec.VolumeClaimTemplates {
		name := l.set.Spec.VolumeClaimTemplates[i].Name
		mount(&p.Spec, name, claimName(l.set, name, ordinal))
	}
	return controllers.Create(resources.Pods, p), nil
}

// claim makes the claim of a pod from a template.
func (l *look) claim(template *corev1.PersistentVolumeClaim, ordinal int) *corev1.PersistentVolumeClaim {
	c := template.DeepCopy()
	c.ObjectMeta = metav1.ObjectMeta{
		Namespace: l.set.Namespace, Name: claimName(l.set, template.Name, ordinal),
		Labels: maps.Clone(template.Labels), Annotations: maps.Clone(template.Annotations),
	}
	c.Status = corev1.PersistentVolumeClaimStatus{}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	maps.Copy(c.Labels, l.set.Spec.Selector.MatchLabels)
	if policy := l.set.Spec.PersistentVolumeClaimRetentionPolicy; policy != nil && policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		c.OwnerReferences = []metav1.OwnerReference{{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: l.set.Name, UID: l.set.UID}}
	}
	return c
}

func claimName(set *appsv1.StatefulSet, template string, ordinal int) string {
	return template + "-" + podName(set, ordinal)
}

// bindClaims makes the claims of a pod that is scaled away go with it, when the set says so. It returns nothing when they will.
func (l *look) bindClaims(p *corev1.Pod, ordinal int) []commands.Command {
	policy := l.set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil || policy.WhenScaled != appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		return nil
	}
	var cs []commands.Command
	for i := range l.set.Spec.VolumeClaimTemplates {
		c, ok := projections.Get[*corev1.PersistentVolumeClaim](l.view, claims, l.set.Namespace, claimName(l.set, l.set.Spec.VolumeClaimTemplates[i].Name, ordinal))
		if !ok || len(c.OwnerReferences) == 1 && c.OwnerReferences[0].UID == p.UID {
			continue
		}
		bound := c.DeepCopy()
		bound.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: pods.Kind.Kind, Name: p.Name, UID: p.UID}}
		cs = append(cs, controllers.Update(resources.PersistentVolumeClaims, bound))
	}
	return cs
}

// mount makes a volume of a pod be a claim.
func mount(spec *corev1.PodSpec, volume, claim string) {
	v := corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}
	for i := range spec.Volumes {
		if spec.Volumes[i].Name == volume {
			spec.Volumes[i] = v
			return
		}
	}
	spec.Volumes = append(spec.Volumes, v)
}

// told makes Events of what became of creations and deletions, in the words that StatefulSets have for it.
func told(about corev1.ObjectReference, set string, outcomes []controllers.Outcome) []controllers.Event {
	var events []controllers.Event
	for _, o := range outcomes {
		what := map[string]string{"pods": "Pod", "persistentvolumeclaims": "Claim"}[o.Command.Resource.Resource]
		if what == "" || o.Command.Verb == commands.Update || o.Err != nil && controllers.Benign(o.Err) {
			continue
		}
		verb := string(o.Command.Verb)
		e := controllers.Event{
			About: about, Type: corev1.EventTypeNormal, Reason: "Successful" + strings.ToUpper(verb[:1]) + verb[1:],
			Message: fmt.Sprintf("%s %s %s in StatefulSet %s successful", verb, what, o.Command.Name, set),
		}
		if o.Err != nil {
			e.Type, e.Reason = corev1.EventTypeWarning, "Failed"+strings.ToUpper(verb[:1])+verb[1:]
			e.Message = fmt.Sprintf("%s %s %s in StatefulSet %s failed error: %v", verb, what, o.Command.Name, set, o.Err)
		}
		events = append(events, e)
	}
	return events
}
