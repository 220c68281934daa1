package history

import (
	"net/http"
	"strconv"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/shiplog/shiplog/domain"
)

// The annotations of an audit.k8s.io event, for what that has no field for.
const (
	auditPosition    = "shiplog.dev/position"
	auditType        = "shiplog.dev/type"
	auditCorrelation = "shiplog.dev/correlation"
	auditCause       = "shiplog.dev/cause" // position
)

// kubernetesEvent is the entry as a Kubernetes API server writes it into its audit log: level Metadata, stage ResponseComplete. An
// entry that came by no request of its own, such as a controller's, has the event's id for its audit ID, and the URI that a request
// would have had.
func (e *Entry) kubernetesEvent(kinds *domain.Set) *auditv1.Event {
	version := ""
	if k, ok := kinds.ByResource(e.Object.GroupResource()); ok {
		version = k.Version
	}
	out := &auditv1.Event{
		TypeMeta: metav1.TypeMeta{APIVersion: auditv1.SchemeGroupVersion.String(), Kind: "Event"},
		Level:    auditv1.LevelMetadata, Stage: auditv1.StageResponseComplete,
		AuditID: types.UID(e.RequestID), RequestURI: e.URI, Verb: e.Verb,
		User: authenticationv1.UserInfo{Username: e.Actor.User, UID: e.Actor.UID, Groups: e.Actor.Groups}, UserAgent: e.Actor.UserAgent,
		ObjectRef: &auditv1.ObjectReference{
			Resource: e.Object.Resource, Namespace: e.Object.Namespace, Name: e.Object.Name, UID: e.Object.UID, APIGroup: e.Object.Group, APIVersion: version,
			Subresource: e.Subresource,
		},
		ResponseStatus:           &metav1.Status{Code: int32(e.Code), Reason: metav1.StatusReason(e.Reason), Message: e.Message},
		RequestReceivedTimestamp: metav1.NewMicroTime(e.Time), StageTimestamp: metav1.NewMicroTime(e.Time),
		Annotations: map[string]string{auditPosition: strconv.FormatUint(e.Position, 10), auditType: e.Type},
	}
	if e.Code >= http.StatusBadRequest {
		out.ResponseStatus.Status = metav1.StatusFailure
	}
	if e.Op != "" {
		out.ObjectRef.ResourceVersion = strconv.FormatUint(e.Position, 10)
	}
	if out.AuditID == "" {
		out.AuditID = types.UID(e.ID)
	}
	if out.RequestURI == "" {
		out.RequestURI = uriOf(e, version)
	}
	if e.Actor.Impersonator != "" {
		as := out.User
		out.ImpersonatedUser, out.User = &as, authenticationv1.UserInfo{Username: e.Actor.Impersonator}
	}
	if e.Actor.SourceIP != "" {
		out.SourceIPs = []string{e.Actor.SourceIP}
	}
	if e.Correlation != "" {
		out.Annotations[auditCorrelation] = e.Correlation
	}
	if e.Cause != nil {
		out.Annotations[auditCause] = strconv.FormatUint(e.Cause.Position, 10)
	}
	return out
}

func uriOf(e *Entry, version string) string {
	parts := []string{"/apis", schema.GroupVersion{Group: e.Object.Group, Version: version}.String()}
	if e.Object.Group == "" {
		parts[0] = "/api"
	}
	if e.Object.Namespace != "" {
		parts = append(parts, "namespaces", e.Object.Namespace)
	}
	parts = append(parts, e.Object.Resource)
	if e.Verb != "create" || e.Subresource != "" {
		parts = append(parts, e.Object.Name)
	}
	if e.Subresource != "" {
		parts = append(parts, e.Subresource)
	}
	return strings.Join(parts, "/")
}
