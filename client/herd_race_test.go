//go:build race

package client

// The race detector cannot follow the goroutines of more.
const manyClients = 500
