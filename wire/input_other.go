//go:build !unix

package wire

const canTakeRaw = false

func (in *Input) takeRaw(uintptr) bool { return true }
