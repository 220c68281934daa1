package domain

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func admissionKinds() []Kind {
	const group = "admissionregistration.k8s.io"
	return []Kind{
		{
			Group: group, Version: "v1", Kind: "ValidatingWebhookConfiguration", Resource: "validatingwebhookconfigurations",
			New: func() runtime.Object { return &admissionv1.ValidatingWebhookConfiguration{} },
		},
		{
			Group: group, Version: "v1", Kind: "MutatingWebhookConfiguration", Resource: "mutatingwebhookconfigurations",
			New: func() runtime.Object { return &admissionv1.MutatingWebhookConfiguration{} },
		},
		{
			Group: group, Version: "v1", Kind: "ValidatingAdmissionPolicy", Resource: "validatingadmissionpolicies",
			New: func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicy{} },
		},
		{
			Group: group, Version: "v1", Kind: "ValidatingAdmissionPolicyBinding", Resource: "validatingadmissionpolicybindings",
			New: func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyBinding{} },
		},
		{
			Group: group, Version: "v1", Kind: "MutatingAdmissionPolicy", Resource: "mutatingadmissionpolicies",
			New: func() runtime.Object { return &admissionv1.MutatingAdmissionPolicy{} },
		},
		{
			Group: group, Version: "v1", Kind: "MutatingAdmissionPolicyBinding", Resource: "mutatingadmissionpolicybindings",
			New: func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyBinding{} },
		},
	}
}
