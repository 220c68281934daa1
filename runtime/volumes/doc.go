// Package volumes gives pods their volumes on a node: directories of the pod's own (emptyDir), of the node (hostPath, local), and
// files made of the cluster's objects (configMap, secret, downwardAPI, projected with tokens), which follow the objects as
// they change, all files of a volume at once.
package volumes
