// Package join lets a node become a member: with a bootstrap token it learns the cluster's authority and gets its certificates, by
// CertificateSigningRequests that a signer in the control plane approves and signs when they are what a node may ask for.
package join

// CAPath answers with the cluster's authority, proven by a bootstrap token.
const CAPath = "/shiplog/v1/ca"

// CA is the answer: the authority in PEM and, as proof, the HMAC-SHA256 of the PEM under the token's secret, in hexadecimal.
type CA struct {
	PEM   string `json:"ca"`
	Proof string `json:"proof"`
}
