// Package access says who may do what: authentication by client certificate, service-account token and bootstrap token, and
// authorization of nodes and by roles. Everything that it looks up it reads from the live view.
package access

import (
	"context"
	"crypto/ecdsa"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	clientinformers "k8s.io/client-go/informers"
	"k8s.io/kubernetes/pkg/serviceaccount"
	"k8s.io/kubernetes/plugin/pkg/auth/authenticator/token/bootstrap"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Authentication says how requests prove who they are.
type Authentication struct {
	ClientCA  dynamiccertificates.CAContentProvider
	TokenKey  *ecdsa.PrivateKey
	Issuer    string // of service-account tokens; also their default audience
	Live      projections.Live
	Informers clientinformers.SharedInformerFactory
	// Open lists the paths that anybody may ask for (authorization still applies).
	Open []string
}

// Authenticator makes the authenticator of requests.
func (a Authentication) Authenticator() (authenticator.Request, error) {
	keys, err := serviceaccount.StaticPublicKeysGetter([]any{a.TokenKey.Public()})
	if err != nil {
		return nil, fmt.Errorf("reading the key of service-account tokens: %w", err)
	}
	var open []apiserver.AnonymousAuthCondition
	for _, path := range a.Open {
		open = append(open, apiserver.AnonymousAuthCondition{Path: path})
	}
	audiences := authenticator.Audiences{a.Issuer}
	secrets := a.Informers.Core().V1().Secrets().Lister().Secrets("kube-system")
	tokens := tokenunion.New(
		serviceaccount.JWTTokenAuthenticator([]string{a.Issuer}, keys, audiences, serviceaccount.NewValidator(tokenObjects{a.Live})),
		authenticator.WrapAudienceAgnosticToken(audiences, bootstrap.NewTokenAuthenticator(secrets)),
	)
	proven := group.NewAuthenticatedGroupAdder(union.New(
		rememberCerts(x509.NewDynamic(a.ClientCA.VerifyOptions, x509.CommonNameUserConversion)),
		bearertoken.New(tokens),
		websocket.NewProtocolAuthenticator(tokens),
	))
	return union.NewFailOnError(proven, anonymous.NewAuthenticator(open)), nil
}

// tokenObjects finds what a service-account token speaks of.
type tokenObjects struct{ live projections.Live }

var _ serviceaccount.ServiceAccountTokenGetter = tokenObjects{}

func find[T runtime.Object](live projections.Live, group, resource, namespace, name string) (T, error) {
	gr := domain.Resource{Group: group, Resource: resource}
	o, ok := projections.Get[T](live.Snapshot(), gr, namespace, name)
	if !ok {
		return o, apierrors.NewNotFound(gr, name)
	}
	return o, nil
}

func (t tokenObjects) GetServiceAccount(_ context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return find[*corev1.ServiceAccount](t.live, "", "serviceaccounts", namespace, name)
}

func (t tokenObjects) GetPod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	return find[*corev1.Pod](t.live, "", "pods", namespace, name)
}

func (t tokenObjects) GetSecret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	return find[*corev1.Secret](t.live, "", "secrets", namespace, name)
}

func (t tokenObjects) GetNode(_ context.Context, name string) (*corev1.Node, error) {
	return find[*corev1.Node](t.live, "", "nodes", "", name)
}

func (t tokenObjects) GetValidatingWebhookConfiguration(_ context.Context, name string) (*admissionregistrationv1.ValidatingWebhookConfiguration, error) {
	return find[*admissionregistrationv1.ValidatingWebhookConfiguration](t.live, "admissionregistration.k8s.io", "validatingwebhookconfigurations", "", name)
}

func (t tokenObjects) GetMutatingWebhookConfiguration(_ context.Context, name string) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	return find[*admissionregistrationv1.MutatingWebhookConfiguration](t.live, "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", name)
}
