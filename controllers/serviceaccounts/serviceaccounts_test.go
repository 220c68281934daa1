package serviceaccounts_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/controllers/serviceaccounts"
	"github.com/shiplog/shiplog/projections"
)

func namespace(edits ...func(*corev1.Namespace)) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	for _, e := range edits {
		e(n)
	}
	return n
}

func TestOneLook(t *testing.T) {
	key := controllers.KeyOf(resources.Namespaces.GroupResource(), "", "shop")
	ending := namespace(func(n *corev1.Namespace) { n.Status.Phase = corev1.NamespaceTerminating })
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "default"}}
	old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "OLD"}}
	for _, c := range []struct {
		what    string
		of      controllers.Controller
		objects []runtime.Object
		want    []string
	}{
		{"a new namespace", serviceaccounts.NewDefault(), []runtime.Object{namespace()}, []string{"create serviceaccounts shop/default"}},
		{"it is there", serviceaccounts.NewDefault(), []runtime.Object{namespace(), account}, nil},
		{"the namespace is ending", serviceaccounts.NewDefault(), []runtime.Object{ending}, nil},
		{"no namespace", serviceaccounts.NewDefault(), nil, nil},
		{"a new namespace, CA", serviceaccounts.NewRootCA([]byte("PEM")), []runtime.Object{namespace()}, []string{"create configmaps shop/kube-root-ca.crt"}},
		{"another CA", serviceaccounts.NewRootCA([]byte("PEM")), []runtime.Object{namespace(), old}, []string{"update configmaps shop/kube-root-ca.crt"}},
		{"the namespace is ending, CA", serviceaccounts.NewRootCA([]byte("PEM")), []runtime.Object{ending}, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			controllertest.Then(t, controllertest.When(t, c.of, controllertest.Given(c.objects...), key, controllertest.Epoch), c.want...)
		})
	}
}

func TestTheyComeBack(t *testing.T) {
	c := controllertest.NewCluster(namespace())
	sim := controllertest.NewSimulation(1, c, serviceaccounts.NewDefault(), serviceaccounts.NewRootCA([]byte("PEM")))
	settle := func() {
		t.Helper()
		if err := sim.Settle(100, time.Minute); err != nil {
			t.Fatal(err)
		}
		ca, ok := projections.Get[*corev1.ConfigMap](c.Snapshot(), resources.ConfigMaps.GroupResource(), "shop", "kube-root-ca.crt")
		_, account := c.Snapshot().Get(resources.ServiceAccounts.GroupResource(), "shop", "default")
		if !ok || !account || ca.Data["ca.crt"] != "PEM" {
			t.Errorf("account %v, CA %+v", account, ca)
		}
	}
	settle()
	c.MustDo(commands.Command{Verb: commands.Delete, Resource: resources.ServiceAccounts, Namespace: "shop", Name: "default"})
	c.MustDo(commands.Command{Verb: commands.Delete, Resource: resources.ConfigMaps, Namespace: "shop", Name: "kube-root-ca.crt"})
	settle()
	c.MustDo(controllers.Update(resources.ConfigMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "EVIL"}}))
	settle()
}
