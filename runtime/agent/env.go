package agent

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/volumes"
)

// errEnv says that a container's environment needs an object, or a key of one, that is not there.
var errEnv = errors.New("environment cannot be made")

// environmentInput is what a container's variables are made of.
type environmentInput struct {
	pod       *corev1.Pod
	container *corev1.Container
	services  []*corev1.Service // of the pod's namespace, and default/kubernetes
	objects   volumes.Objects
	fields    fields
}

// environment returns a container's variables in the order in which they are defined; of one name the last counts: the
// services', envFrom's, env's.
func environment(in environmentInput) ([]corev1.EnvVar, error) {
	var out []corev1.EnvVar
	known := map[string]string{}
	add := func(name, value string) {
		if _, ok := known[name]; ok {
			out = slices.DeleteFunc(out, func(e corev1.EnvVar) bool { return e.Name == name })
		}
		known[name] = value
		out = append(out, corev1.EnvVar{Name: name, Value: value})
	}
	for _, e := range serviceVariables(in.pod, in.services) {
		add(e.Name, e.Value)
	}
	for _, from := range in.container.EnvFrom {
		data, err := envFrom(in, from)
		if err != nil {
			return nil, err
		}
		names := make([]string, 0, len(data))
		for n := range data {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			add(from.Prefix+n, data[n])
		}
	}
	lookup := func(name string) (string, bool) { v, ok := known[name]; return v, ok }
	for _, e := range in.container.Env {
		if e.ValueFrom == nil {
			add(e.Name, containers.Expand(e.Value, lookup))
			continue
		}
		value, ok, err := valueFrom(in, e.ValueFrom)
		if err != nil {
			return nil, err
		}
		if ok {
			add(e.Name, value)
		}
	}
	return out, nil
}

func optional(b *bool) bool { return b != nil && *b }

func envFrom(in environmentInput, from corev1.EnvFromSource) (map[string]string, error) {
	ns := in.pod.Namespace
	switch {
	case from.ConfigMapRef != nil:
		c, ok := in.objects.ConfigMap(ns, from.ConfigMapRef.Name)
		if !ok {
			if optional(from.ConfigMapRef.Optional) {
				return nil, nil
			}
			return nil, fmt.Errorf("%w: configmap %q not found", errEnv, from.ConfigMapRef.Name)
		}
		return c.Data, nil
	case from.SecretRef != nil:
		s, ok := in.objects.Secret(ns, from.SecretRef.Name)
		if !ok {
			if optional(from.SecretRef.Optional) {
				return nil, nil
			}
			return nil, fmt.Errorf("%w: secret %q not found", errEnv, from.SecretRef.Name)
		}
		out := make(map[string]string, len(s.Data))
		for k, v := range s.Data {
			out[k] = string(v)
		}
		return out, nil
	}
	return nil, nil
}

func valueFrom(in environmentInput, from *corev1.EnvVarSource) (value string, ok bool, err error) {
	ns := in.pod.Namespace
	switch {
	case from.FieldRef != nil:
		value, err = in.fields.Field(in.pod, from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		name := from.ResourceFieldRef.ContainerName
		if name == "" {
			name = in.container.Name
		}
		value, err = in.fields.Resource(in.pod, from.ResourceFieldRef, name)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		c, have := in.objects.ConfigMap(ns, r.Name)
		if !have {
			return "", false, unlessOptional(r.Optional, "configmap %q not found", r.Name)
		}
		if v, have := c.Data[r.Key]; have {
			return v, true, nil
		}
		return "", false, unlessOptional(r.Optional, "couldn't find key %s in ConfigMap %s/%s", r.Key, ns, r.Name)
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		s, have := in.objects.Secret(ns, r.Name)
		if !have {
			return "", false, unlessOptional(r.Optional, "secret %q not found", r.Name)
		}
		if v, have := s.Data[r.Key]; have {
			return string(v), true, nil
		}
		return "", false, unlessOptional(r.Optional, "couldn't find key %s in Secret %s/%s", r.Key, ns, r.Name)
	}
	return "", false, fmt.Errorf("%w: a variable comes from a source that this node does not know", errEnv)
}

func unlessOptional(o *bool, format string, args ...any) error {
	if optional(o) {
		return nil
	}
	return fmt.Errorf("%w: %s", errEnv, fmt.Sprintf(format, args...))
}

// serviceVariables are what a container knows of services by the names that Docker's links once had: of those of its
// namespace unless the pod turns them off, and of the API server always.
func serviceVariables(pod *corev1.Pod, services []*corev1.Service) []corev1.EnvVar {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	var use []*corev1.Service
	shadowed := false
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		api := s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes"
		if s.Namespace == pod.Namespace && (links || api) {
			use = append(use, s)
			shadowed = shadowed || s.Name == "kubernetes"
		}
	}
	for _, s := range services {
		if !shadowed && s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes" && s.Namespace != pod.Namespace && len(s.Spec.Ports) > 0 {
			use = append(use, s)
		}
	}
	sort.SliceStable(use, func(i, j int) bool { return use[i].Name < use[j].Name })
	var out []corev1.EnvVar
	add := func(name, value string) { out = append(out, corev1.EnvVar{Name: name, Value: value}) }
	for _, s := range use {
		prefix, ip := variableName(s.Name), s.Spec.ClusterIP
		host := ip
		if strings.Contains(ip, ":") {
			host = "[" + ip + "]"
		}
		add(prefix+"_SERVICE_HOST", ip)
		add(prefix+"_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port)))
		for _, p := range s.Spec.Ports {
			if p.Name != "" {
				add(prefix+"_SERVICE_PORT_"+variableName(p.Name), strconv.Itoa(int(p.Port)))
			}
		}
		for i, p := range s.Spec.Ports {
			protocol := string(p.Protocol)
			if protocol == "" {
				protocol = "TCP"
			}
			port := strconv.Itoa(int(p.Port))
			at := strings.ToLower(protocol) + "://" + host + ":" + port
			if i == 0 {
				add(prefix+"_PORT", at)
			}
			portPrefix := prefix + "_PORT_" + port + "_" + strings.ToUpper(protocol)
			add(portPrefix, at)
			add(portPrefix+"_PROTO", strings.ToLower(protocol))
			add(portPrefix+"_PORT", port)
			add(portPrefix+"_ADDR", ip)
		}
	}
	return out
}

func variableName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
