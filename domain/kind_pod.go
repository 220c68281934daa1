package domain

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
)

func podKinds() []Kind {
	return []Kind{
		{
			Version: "v1", Kind: "Pod", Resource: "pods", ShortNames: []string{"po"}, Namespaced: true,
			New: func() runtime.Object { return &corev1.Pod{} },
			Indexes: []Index{
				{Name: NodeIndex, Values: index(func(p *corev1.Pod) []string { return []string{p.Spec.NodeName} })},
				{Name: RefersIndex, Values: index(podRefers)},
			},
			Words: podWords(),
		},
		{
			Version: "v1", Kind: "PodTemplate", Resource: "podtemplates", Namespaced: true,
			New: func() runtime.Object { return &corev1.PodTemplate{} },
		},
	}
}

// podWords are in the order of what a reader wants to know first when one change does several things.
func podWords() []Word {
	return []Word{
		changed("PodEvicted", "The pod was told to leave its node: by the eviction API, a taint, preemption or pressure on the node.", func(b, a *corev1.Pod) bool {
			return a.Status.Reason == "Evicted" && b.Status.Reason != "Evicted" ||
				podCondition(a, corev1.DisruptionTarget) == corev1.ConditionTrue && podCondition(b, corev1.DisruptionTarget) != corev1.ConditionTrue
		}),
		changed("PodSucceeded", "All containers ended with exit code 0 and will not run again.", phase(corev1.PodSucceeded)),
		changed("PodFailed", "All containers ended, at least one in failure, and will not run again.", phase(corev1.PodFailed)),
		changed("PodDeletionRequested", "Somebody asked for the pod's deletion; its containers are being stopped.", deletionRequested[*corev1.Pod]),
		changed("PodTerminated", "All containers of a pod that is being deleted have ended, or are waited for no longer: the pod may go.", func(b, a *corev1.Pod) bool {
			grace := a.DeletionGracePeriodSeconds
			return grace != nil && *grace == 0 && b.DeletionTimestamp != nil && (b.DeletionGracePeriodSeconds == nil || *b.DeletionGracePeriodSeconds > 0)
		}),
		changed("PodBound", "The scheduler, or whoever bound it, chose the pod's node.", func(b, a *corev1.Pod) bool {
			return b.Spec.NodeName == "" && a.Spec.NodeName != ""
		}),
		changed("ContainerRestarted", "A container of the pod ran again after it had ended.", anyContainer(func(b, a *corev1.ContainerStatus) bool {
			return a.RestartCount > b.RestartCount
		})),
		changed("PodStarted", "The first container of the pod runs.", phase(corev1.PodRunning)),
		changed("ImagePullFailed", "An image of the pod could not be pulled.", anyContainer(waitingFor("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"))),
		changed("ContainerCrashLooping", "A container ends again and again and is started after longer and longer pauses.", anyContainer(waitingFor("CrashLoopBackOff"))),
		changed("ContainerExited", "A container of the pod ended.", anyContainer(func(b, a *corev1.ContainerStatus) bool {
			return a.State.Terminated != nil && b.State.Terminated == nil
		})),
		changed("PodReady", "The pod became ready to get traffic.", func(b, a *corev1.Pod) bool {
			return podCondition(a, corev1.PodReady) == corev1.ConditionTrue && podCondition(b, corev1.PodReady) != corev1.ConditionTrue
		}),
		changed("PodNotReady", "The pod stopped being ready to get traffic.", func(b, a *corev1.Pod) bool {
			return podCondition(a, corev1.PodReady) != corev1.ConditionTrue && podCondition(b, corev1.PodReady) == corev1.ConditionTrue
		}),
		changed("ContainerStarted", "A container of the pod runs for the first time.", anyContainer(func(b, a *corev1.ContainerStatus) bool {
			return a.State.Running != nil && b.State.Running == nil
		})),
		changed("PodUnschedulable", "The scheduler found no node for the pod.", func(b, a *corev1.Pod) bool {
			return podReason(a, corev1.PodScheduled) == corev1.PodReasonUnschedulable && podReason(b, corev1.PodScheduled) != corev1.PodReasonUnschedulable
		}),
		changed("PodAddressAssigned", "The pod got its network address.", func(b, a *corev1.Pod) bool {
			return b.Status.PodIP == "" && a.Status.PodIP != ""
		}),
		changed("EphemeralContainerAdded", "A debugging container was added to the running pod.", func(b, a *corev1.Pod) bool {
			return len(a.Spec.EphemeralContainers) > len(b.Spec.EphemeralContainers)
		}),
		changed("PodImageChanged", "A container of the pod was given another image.", func(b, a *corev1.Pod) bool {
			return imagesDiffer(&b.Spec, &a.Spec)
		}),
		changed("PodResized", "The resources of a container were changed in place.", func(b, a *corev1.Pod) bool {
			return resourcesDiffer(b.Spec.Containers, a.Spec.Containers) || resourcesDiffer(b.Spec.InitContainers, a.Spec.InitContainers)
		}),
	}
}

func phase(p corev1.PodPhase) func(b, a *corev1.Pod) bool {
	return func(b, a *corev1.Pod) bool { return a.Status.Phase == p && b.Status.Phase != p }
}

func podCondition(p *corev1.Pod, t corev1.PodConditionType) corev1.ConditionStatus {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == t {
			return c.Status
		}
	}
	return ""
}

func podReason(p *corev1.Pod, t corev1.PodConditionType) string {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == t {
			return c.Reason
		}
	}
	return ""
}

// anyContainer holds when a container's status changed in the given way; a container without a status before is compared
// with an empty one.
func anyContainer(differs func(before, after *corev1.ContainerStatus) bool) func(b, a *corev1.Pod) bool {
	return func(b, a *corev1.Pod) bool {
		lists := [][2][]corev1.ContainerStatus{
			{b.Status.ContainerStatuses, a.Status.ContainerStatuses},
			{b.Status.InitContainerStatuses, a.Status.InitContainerStatuses},
			{b.Status.EphemeralContainerStatuses, a.Status.EphemeralContainerStatuses},
		}
		for _, pair := range lists {
			for i := range pair[1] {
				after, before := &pair[1][i], &corev1.ContainerStatus{}
				for j := range pair[0] {
					if pair[0][j].Name == after.Name {
						before = &pair[0][j]
						break
					}
				}
				if differs(before, after) {
					return true
				}
			}
		}
		return false
	}
}

// waitingFor holds when a container began to wait for one of the reasons, having waited for none of them before.
func waitingFor(reasons ...string) func(before, after *corev1.ContainerStatus) bool {
	waits := func(s *corev1.ContainerStatus) bool {
		if s.State.Waiting == nil {
			return false
		}
		for _, r := range reasons {
			if s.State.Waiting.Reason == r {
				return true
			}
		}
		return false
	}
	return func(before, after *corev1.ContainerStatus) bool { return waits(after) && !waits(before) }
}

// imagesDiffer says whether a container that both have was given another image.
func imagesDiffer(before, after *corev1.PodSpec) bool {
	for _, pair := range [][2][]corev1.Container{{before.Containers, after.Containers}, {before.InitContainers, after.InitContainers}} {
		for i := range pair[1] {
			for j := range pair[0] {
				if pair[0][j].Name == pair[1][i].Name && pair[0][j].Image != pair[1][i].Image {
					return true
				}
			}
		}
	}
	return false
}

func resourcesDiffer(before, after []corev1.Container) bool {
	for i := range after {
		for j := range before {
			if before[j].Name == after[i].Name && !equality.Semantic.DeepEqual(before[j].Resources, after[i].Resources) {
				return true
			}
		}
	}
	return false
}

// podRefers lists what a pod needs of its namespace before its containers can run, each once.
func podRefers(p *corev1.Pod) []string {
	var out []string
	seen := map[string]bool{}
	add := func(resource, name string) {
		if key := resource + "/" + name; name != "" && !seen[key] {
			seen[key] = true
			out = append(out, key)
		}
	}
	secret, configMap := "secrets", "configmaps"
	add("serviceaccounts", p.Spec.ServiceAccountName)
	for i := range p.Spec.ImagePullSecrets {
		add(secret, p.Spec.ImagePullSecrets[i].Name)
	}
	env := func(from []corev1.EnvFromSource, vars []corev1.EnvVar) {
		for i := range from {
			if r := from[i].ConfigMapRef; r != nil {
				add(configMap, r.Name)
			}
			if r := from[i].SecretRef; r != nil {
				add(secret, r.Name)
			}
		}
		for i := range vars {
			v := vars[i].ValueFrom
			if v == nil {
				continue
			}
			if v.ConfigMapKeyRef != nil {
				add(configMap, v.ConfigMapKeyRef.Name)
			}
			if v.SecretKeyRef != nil {
				add(secret, v.SecretKeyRef.Name)
			}
		}
	}
	for i := range p.Spec.InitContainers {
		env(p.Spec.InitContainers[i].EnvFrom, p.Spec.InitContainers[i].Env)
	}
	for i := range p.Spec.Containers {
		env(p.Spec.Containers[i].EnvFrom, p.Spec.Containers[i].Env)
	}
	for i := range p.Spec.EphemeralContainers {
		env(p.Spec.EphemeralContainers[i].EnvFrom, p.Spec.EphemeralContainers[i].Env)
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.Secret != nil:
			add(secret, v.Secret.SecretName)
		case v.ConfigMap != nil:
			add(configMap, v.ConfigMap.Name)
		case v.PersistentVolumeClaim != nil:
			add("persistentvolumeclaims", v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			add("persistentvolumeclaims", p.Name+"-"+v.Name) // the claim that is made for the pod is called so
		case v.CSI != nil && v.CSI.NodePublishSecretRef != nil:
			add(secret, v.CSI.NodePublishSecretRef.Name)
		case v.Projected != nil:
			for j := range v.Projected.Sources {
				s := &v.Projected.Sources[j]
				if s.Secret != nil {
					add(secret, s.Secret.Name)
				}
				if s.ConfigMap != nil {
					add(configMap, s.ConfigMap.Name)
				}
			}
		}
	}
	return out
}
