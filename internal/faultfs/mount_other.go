//go:build !linux

package faultfs

import "errors"

// Mount is a disk that programs of this machine use; on Linux only.
type Mount struct{ disk *Disk }

// Open says that it cannot.
func Open(*Disk, string) (*Mount, error) { return nil, errors.New("faultfs: on Linux only") }

// Disk is the disk.
func (m *Mount) Disk() *Disk { return m.disk }

// Close does nothing, like all that follow.
func (m *Mount) Close() error { return nil }

// Freeze does nothing.
func (m *Mount) Freeze() {}

// FreezeAt does nothing.
func (m *Mount) FreezeAt(int) <-chan struct{} { return nil }

// Thaw does nothing.
func (m *Mount) Thaw() {}

// Fail does nothing.
func (m *Mount) Fail() {}

// Set does nothing.
func (m *Mount) Set(Trouble) {}

// Changes is 0.
func (m *Mount) Changes() int { return 0 }
