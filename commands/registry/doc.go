// Package registry gives the resources of the API their meaning: defaults, validation, what an update may change, subresources,
// admission. The REST stores are upstream's, their storage is ours (package storage). The HTTP API serves the groups made here;
// Bus carries commands of the same process out through the same admission, validation and stores, without HTTP in between.
package registry
