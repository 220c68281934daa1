// Package clustertest is a control plane in memory, for the tests of rooms that stand above commands and projections: a live
// view and a bus without a log, without admission and without validation, that can refuse commands and forget its past on
// request. It knows of the API's meaning only what those rooms rely on: bindings, the status subresource, resource versions,
// generated names, graceful deletion of pods and finalizers.
package clustertest
