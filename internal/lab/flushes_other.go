//go:build !linux

package lab

import "errors"

// flushes cannot be watched here.
type flushes struct{ disks }

func watchFlushes() (*flushes, error) { return nil, errors.ErrUnsupported }
