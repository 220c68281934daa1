// Package graphql serves the cluster, its past and its events over GraphQL: queries over HTTP, subscriptions over WebSocket
// (graphql-transport-ws) and server-sent events, and a page to try them on.
package graphql

//go:generate go tool gqlgen generate --config gqlgen.yml
