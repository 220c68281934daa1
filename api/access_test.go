package api_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/api/apitest"
	"github.com/shiplog/shiplog/api/join"
	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/commands/remote"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/ops/pki"
	"github.com/shiplog/shiplog/projections"
)

// as returns a configuration with a client certificate of the cluster's authority.
func as(t *testing.T, c *apitest.Cluster, user string, groups ...string) *restclient.Config {
	t.Helper()
	cert, key, err := c.PKI.Issue(pki.Request{Name: user, Organizations: groups, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	return &restclient.Config{Host: c.Server.URL(), QPS: -1, TLSClientConfig: restclient.TLSClientConfig{
		CAData: c.PKI.CA(), CertData: cert, KeyData: key,
	}}
}

func client(t *testing.T, conf *restclient.Config) kubernetes.Interface {
	t.Helper()
	out, err := kubernetes.NewForConfig(conf)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoles(t *testing.T) {
	c := apitest.Start(t)
	ctx := timeout(t)
	ann := client(t, as(t, c, "ann"))
	if _, err := ann.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("without a role: %v", err)
	}
	_, err := c.Client.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "ann"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "ann"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ann.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("with the aggregated role view: %v", err)
	}
	if _, err := ann.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets: %v", err)
	}
	if _, err := ann.CoreV1().ConfigMaps("default").Create(ctx, configMap(1), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("writing: %v", err)
	}
	nobody := client(t, &restclient.Config{Host: c.Server.URL(), TLSClientConfig: restclient.TLSClientConfig{CAData: c.PKI.CA()}})
	if _, err := nobody.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("anonymous: %v", err)
	}
	if _, err := nobody.Discovery().ServerVersion(); err != nil {
		t.Errorf("anybody may ask for the version: %v", err)
	}
}

func TestServiceAccountTokens(t *testing.T) {
	c := apitest.Start(t)
	ctx := timeout(t)
	tok, err := c.Client.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sa := client(t, &restclient.Config{Host: c.Server.URL(), BearerToken: tok.Status.Token, TLSClientConfig: restclient.TLSClientConfig{CAData: c.PKI.CA()}})
	me, err := sa.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || me.Status.UserInfo.Username != "system:serviceaccount:default:default" {
		t.Fatalf("got %v, %v", me, err)
	}
	if err := c.Client.CoreV1().ServiceAccounts("default").Delete(ctx, "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := sa.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("after the account is gone: %v", err)
	}
}

// bound makes a pod that is bound to a node and refers to a secret.
func bound(t *testing.T, c *apitest.Cluster, name, node, secret string) {
	t.Helper()
	ctx := timeout(t)
	if _, err := c.Client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := benchPod(0)
	pod.Name = name
	pod.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}
	if _, err := c.Client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Bus.Do(ctx, commands.Command{
		Verb: commands.Create, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Subresource: "binding", Namespace: "default", Name: name,
		Object: &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name}, Target: corev1.ObjectReference{Kind: "Node", Name: node}},
		Actor:  domain.Actor{User: "system:scheduler"}, Evidence: []byte(`{"score":7}`),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNodes(t *testing.T) {
	c := apitest.Start(t)
	ctx := timeout(t)
	bound(t, c, "mine", "n1", "s1")
	bound(t, c, "other", "n2", "s2")
	n1 := client(t, as(t, c, "system:node:n1", "system:nodes"))
	if _, err := n1.CoreV1().Secrets("default").Get(ctx, "s1", metav1.GetOptions{}); err != nil {
		t.Errorf("the secret of its own pod: %v", err)
	}
	if _, err := n1.CoreV1().Secrets("default").Get(ctx, "s2", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the secret of another node's pod: %v", err)
	}
	if _, err := n1.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all secrets: %v", err)
	}
	if list, err := n1.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"}); err != nil || len(list.Items) != 1 {
		t.Errorf("its own pods: %v, %v", list, err)
	}
	if _, err := n1.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("registering itself: %v", err)
	}
	if _, err := n1.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n3"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("registering another: %v", err)
	}

	// The agent's bus: what it says of causes is kept with the event.
	bus, err := remote.New(as(t, c, "system:node:n1", "system:nodes"))
	if err != nil {
		t.Fatal(err)
	}
	mine, err := n1.CoreV1().Pods("default").Get(ctx, "mine", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mine.Status.Phase = corev1.PodRunning
	res, err := bus.Do(ctx, commands.Command{
		Verb: commands.Update, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Subresource: "status", Namespace: "default", Name: "mine",
		Object: mine, Cause: &domain.Cause{ID: "the-cause", Position: 4}, Correlation: "together",
	})
	if err != nil {
		t.Fatal(err)
	}
	ev := eventAt(t, c, res.Position)
	if ev.Cause == nil || ev.Cause.ID != "the-cause" || ev.Cause.Position != 4 || ev.Correlation != "together" ||
		ev.Actor.User != "system:node:n1" || ev.Command.Subresource != "status" || ev.Op != domain.Changed {
		t.Errorf("the event: %+v", ev)
	}
	other, err := c.Client.CoreV1().Pods("default").Get(ctx, "other", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = bus.Do(ctx, commands.Command{
		Verb: commands.Update, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Subresource: "status", Namespace: "default", Name: "other", Object: other,
	})
	if !apierrors.IsForbidden(err) {
		t.Errorf("another node's pod: %v", err)
	}
}

// eventAt reads one event of the log.
func eventAt(t *testing.T, c *apitest.Cluster, position uint64) domain.Event {
	t.Helper()
	for rec, err := range c.Log.ReadAll(timeout(t), eventstore.ReadAll{From: eventstore.Position(position), Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		ev, ok, err := projections.EventOf(rec)
		if err != nil || !ok {
			t.Fatal(err)
		}
		return ev
	}
	t.Fatalf("no event at position %d", position)
	return domain.Event{}
}

func TestAPersonsWordOnCausesIsNotBelieved(t *testing.T) {
	c := apitest.Start(t)
	ctx := timeout(t)
	_, err := c.Client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "ann"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "ann"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bus, err := remote.New(as(t, c, "ann"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := bus.Do(ctx, commands.Command{
		Verb: commands.Create, Resource: corev1.SchemeGroupVersion.WithResource("configmaps"), Namespace: "default", Object: configMap(1),
		Cause: &domain.Cause{ID: "made-up", Position: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if ev := eventAt(t, c, res.Position); ev.Cause != nil || ev.Actor.User != "ann" || ev.Actor.SourceIP == "" || ev.Command.Verb != "create" || ev.Command.RequestID == "" {
		t.Errorf("the event: %+v", ev)
	}
}

// refused waits for the first request on the audit trail that was refused and is the one that is meant.
func refused(t *testing.T, c *apitest.Cluster, meant func(domain.Event) bool) domain.Event {
	t.Helper()
	ctx := timeout(t)
	sub, err := c.Log.Subscribe(ctx, eventstore.Subscribe{Stream: api.AuditStream})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	for {
		batch, err := sub.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range batch.Events {
			if ev, ok, err := projections.EventOf(rec); err != nil {
				t.Fatal(err)
			} else if ok && ev.Type == api.RequestRefused && meant(ev) {
				return ev
			}
		}
	}
}

// Who asks in another's name is told of beside the name: by what was changed, and by what was refused.
func TestImpersonationIsTold(t *testing.T) {
	c := apitest.Start(t)
	ctx := timeout(t)
	conf := as(t, c, "root", "system:masters")
	conf.Impersonate = restclient.ImpersonationConfig{UserName: "ann", Groups: []string{"system:masters"}}
	made, err := client(t, conf).CoreV1().ConfigMaps("default").Create(ctx, configMap(1), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	position, err := strconv.ParseUint(made.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if a := eventAt(t, c, position).Actor; a.User != "ann" || a.Impersonator != "root" || a.SourceIP == "" {
		t.Errorf("a change: %+v", a)
	}
	conf.Impersonate = restclient.ImpersonationConfig{UserName: "bob"}
	if err := client(t, conf).CoreV1().ConfigMaps("default").Delete(ctx, made.Name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("bob may not: %v", err)
	}
	if a := refused(t, c, func(ev domain.Event) bool { return ev.Command.Verb == "delete" }).Actor; a.User != "bob" || a.Impersonator != "root" || len(a.Groups) != 1 || a.Groups[0] != "system:authenticated" {
		t.Errorf("what was refused: %+v", a)
	}
	own := client(t, as(t, c, "root", "system:masters"))
	if made, err = own.CoreV1().ConfigMaps("default").Create(ctx, configMap(2), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if position, err = strconv.ParseUint(made.ResourceVersion, 10, 64); err != nil {
		t.Fatal(err)
	}
	if a := eventAt(t, c, position).Actor; a.User != "root" || a.Impersonator != "" {
		t.Errorf("in their own name: %+v", a)
	}
}

func TestJoin(t *testing.T) {
	c := apitest.Start(t)
	ctx := timeout(t)
	_, err := c.Client.CoreV1().Secrets("kube-system").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abcdef"}, Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node := join.Node{Name: "n9", Names: []string{"n9"}, IPs: []net.IP{net.IPv4(10, 1, 2, 3)}}
	creds, err := join.Join(ctx, c.Server.URL(), "abcdef.0123456789abcdef", node)
	if err != nil {
		t.Fatal(err)
	}
	n9 := client(t, creds.Config(c.Server.URL()))
	if _, err := n9.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n9"}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("the new member registers: %v", err)
	}
	if _, err := join.Renew(ctx, c.Server.URL(), creds, node); err != nil {
		t.Errorf("renewing: %v", err)
	}
	if _, err := join.FetchCA(ctx, c.Server.URL(), "abcdef.xxxxxxxxxxxxxxxx"); !errors.Is(err, join.ErrNotTrue) {
		t.Errorf("with another secret: %v", err)
	}
	if _, err := join.Join(ctx, c.Server.URL(), "nonsense", node); !errors.Is(err, join.ErrBadToken) {
		t.Errorf("with no token: %v", err)
	}
}

func TestRefusedRequestsAreOnTheAuditTrail(t *testing.T) {
	c := apitest.Start(t)
	ann := client(t, as(t, c, "ann"))
	if _, err := ann.CoreV1().ConfigMaps("default").Create(timeout(t), configMap(1), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Fatal(err)
	}
	refused(t, c, func(ev domain.Event) bool {
		return ev.Actor.User == "ann" && ev.Command.Verb == "create" && ev.Ref.Resource == "configmaps" && ev.Op == ""
	})
}

func TestExtraHandlers(t *testing.T) {
	c := apitest.Start(t, func(a *api.Config) {
		a.Extra = map[string]http.Handler{"/hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("hello " + r.URL.Path)) })}
	})
	get := func(conf *restclient.Config) (string, error) {
		raw, err := client(t, conf).Discovery().RESTClient().Get().AbsPath("/hello/you").DoRaw(context.Background())
		return string(raw), err
	}
	if out, err := get(c.Admin); err != nil || out != "hello /hello/you" {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := get(as(t, c, "ann")); !apierrors.IsForbidden(err) {
		t.Errorf("without a right: %v", err)
	}
}
