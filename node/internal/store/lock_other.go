//go:build !unix

package store

import "os"

// lockFile only opens the file: here the lock that bbolt takes on each of its
// files has to do.
func lockFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
}
