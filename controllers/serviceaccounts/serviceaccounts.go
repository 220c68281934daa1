// Package serviceaccounts gives every namespace what pods need to speak to the API: the ServiceAccount "default", and the
// ConfigMap kube-root-ca.crt by which they trust the API server.
package serviceaccounts

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var (
	namespaces = resources.Namespaces.GroupResource()
	accounts   = resources.ServiceAccounts.GroupResource()
	configMaps = resources.ConfigMaps.GroupResource()
)

// The names of what every namespace has.
const (
	DefaultName = "default"
	RootCAName  = "kube-root-ca.crt"
)

// Default creates the ServiceAccount "default".
type Default struct{}

// NewDefault makes the controller.
func NewDefault() controllers.Controller { return Default{} }

// Name implements controllers.Controller.
func (Default) Name() string { return "service-account-controller" }

// Inputs implements controllers.Controller.
func (Default) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: namespaces, Why: "where it must be"},
		{Resource: accounts, Why: "where it is not", Keys: lost(DefaultName)},
	}
}

// lost returns the namespace of an object of a name that has been changed or deleted.
func lost(name string) func(projections.Reader, projections.Change) []controllers.Key {
	return func(_ projections.Reader, ch projections.Change) []controllers.Key {
		if ch.Event.Ref.Name != name || ch.Event.Op == domain.Created {
			return nil
		}
		return []controllers.Key{controllers.KeyOf(namespaces, "", ch.Event.Ref.Namespace)}
	}
}

// Outputs implements controllers.Controller.
func (Default) Outputs() []controllers.Output {
	return []controllers.Output{{Resource: accounts, Of: "named " + DefaultName, Creates: true}}
}

// Reconcile implements controllers.Controller. The key is a namespace.
func (Default) Reconcile(view projections.Reader, key controllers.Key, _ time.Time) (controllers.Decision, error) {
	if !active(view, key) {
		return controllers.Decision{}, nil
	}
	if _, ok := view.Get(accounts, key.Name, DefaultName); ok {
		return controllers.Decision{}, nil
	}
	return controllers.Decision{Commands: []commands.Command{
		controllers.Create(resources.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: DefaultName}}),
	}}, nil
}

func active(view projections.Reader, key controllers.Key) bool {
	ns, ok := projections.Get[*corev1.Namespace](view, namespaces, "", key.Name)
	return ok && ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating
}

// RootCA publishes the bundle.
type RootCA struct{ bundle string }

// NewRootCA makes the controller of a PEM bundle.
func NewRootCA(bundle []byte) controllers.Controller { return RootCA{bundle: string(bundle)} }

// Name implements controllers.Controller.
func (RootCA) Name() string { return "root-ca-cert-publisher" }

// Inputs implements controllers.Controller.
func (RootCA) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: namespaces, Why: "where it must be"},
		{Resource: configMaps, Why: "where it is not, or was changed", Keys: lost(RootCAName)},
	}
}

// Outputs implements controllers.Controller.
func (RootCA) Outputs() []controllers.Output {
	return []controllers.Output{{Resource: configMaps, Of: "named " + RootCAName, Creates: true, Fields: []string{"data", "metadata.annotations[kubernetes.io/description]"}}}
}

// Reconcile implements controllers.Controller. The key is a namespace.
func (c RootCA) Reconcile(view projections.Reader, key controllers.Key, _ time.Time) (controllers.Decision, error) {
	if !active(view, key) {
		return controllers.Decision{}, nil
	}
	data := map[string]string{"ca.crt": c.bundle}
	const about, text = "kubernetes.io/description", "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as " +
		"the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
	have, ok := projections.Get[*corev1.ConfigMap](view, configMaps, key.Name, RootCAName)
	if !ok {
		return controllers.Decision{Commands: []commands.Command{controllers.Create(resources.ConfigMaps, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: RootCAName, Annotations: map[string]string{about: text}},
			Data:       data,
		})}}, nil
	}
	if maps.Equal(have.Data, data) && len(have.BinaryData) == 0 && have.Annotations[about] == text {
		return controllers.Decision{}, nil
	}
	restored := have.DeepCopy()
	restored.Data, restored.BinaryData = data, nil
	if restored.Annotations == nil {
		restored.Annotations = map[string]string{}
	}
	restored.Annotations[about] = text
	return controllers.Decision{Commands: []commands.Command{controllers.Update(resources.ConfigMaps, restored)}}, nil
}
