// Package domain holds what Shiplog knows of a cluster without touching the world: the kinds of resources, the events that
// change them, how events fold into objects, and the words in which a change is told. Everything here is a function of
// values: no clock, no randomness, no IO. It imports no other room.
package domain

//go:generate go run ./internal/catalogue ../docs/event-catalogue.md
