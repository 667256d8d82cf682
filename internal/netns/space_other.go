//go:build !linux

package netns

import "errors"

var errLinux = errors.New("network namespaces are Linux's")

func newSpace() (*space, error) { return nil, errLinux }

func (s *space) do(func()) error { return errLinux }
