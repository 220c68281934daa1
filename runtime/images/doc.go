// Package images keeps the container images of a node in a directory: it loads them from archives (docker save, OCI), pulls
// them from registries, unpacks each layer once, in the form that overlayfs takes as a lower directory, and tells which image a
// reference means. Every byte is checked against the digest that names it before it can be used.
package images
