//go:build !race

package client

const manyClients = 5000
