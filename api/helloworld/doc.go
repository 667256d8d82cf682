// Package helloworld is generated from helloworld.proto, the service of the
// exercise that Parley grew out of. `go generate` in api/parley/v1 does it.
package helloworld
