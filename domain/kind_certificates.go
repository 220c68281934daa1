package domain

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func certificateKinds() []Kind {
	const group = "certificates.k8s.io"
	became := func(t certificatesv1.RequestConditionType) func(b, a *certificatesv1.CertificateSigningRequest) bool {
		is := func(r *certificatesv1.CertificateSigningRequest) bool {
			for i := range r.Status.Conditions {
				if c := &r.Status.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
					return true
				}
			}
			return false
		}
		return func(b, a *certificatesv1.CertificateSigningRequest) bool { return is(a) && !is(b) }
	}
	return []Kind{
		{
			Group: group, Version: "v1", Kind: "CertificateSigningRequest", Resource: "certificatesigningrequests", ShortNames: []string{"csr"},
			New: func() runtime.Object { return &certificatesv1.CertificateSigningRequest{} },
			Words: []Word{
				changed("CertificateIssued", "The certificate that was asked for was signed.", func(b, a *certificatesv1.CertificateSigningRequest) bool {
					return len(a.Status.Certificate) > 0 && len(b.Status.Certificate) == 0
				}),
				changed("CertificateSigningRequestApproved", "The certificate that was asked for may be signed.", became(certificatesv1.CertificateApproved)),
				changed("CertificateSigningRequestDenied", "The certificate that was asked for was refused.", became(certificatesv1.CertificateDenied)),
				changed("CertificateSigningRequestFailed", "The certificate that was asked for could not be signed.", became(certificatesv1.CertificateFailed)),
			},
		},
		{
			Group: group, Version: "v1", Kind: "ClusterTrustBundle", Resource: "clustertrustbundles",
			New: func() runtime.Object { return &certificatesv1.ClusterTrustBundle{} },
		},
		{
			Group: group, Version: "v1", Kind: "PodCertificateRequest", Resource: "podcertificaterequests", Namespaced: true,
			New: func() runtime.Object { return &certificatesv1.PodCertificateRequest{} },
		},
	}
}
