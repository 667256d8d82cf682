package lab

import "slices"

// Shrink looks for fewer faults that still make an episode fail: it leaves out
// halves, then quarters, and so on, for as long as that goes (Zeller's ddmin), and
// reruns at most so many times. An episode does not always fail again that could,
// so what is left is small and not the smallest.
func Shrink(faults []int, reruns int, fails func(only []int) bool) []int {
	for parts := 2; len(faults) > 0; {
		size := (len(faults) + parts - 1) / parts
		smaller := false
		for at := 0; at < len(faults); at += size {
			if reruns--; reruns < 0 {
				return faults
			}
			rest := slices.Delete(slices.Clone(faults), at, min(at+size, len(faults)))
			if fails(rest) {
				faults, smaller = rest, true
				break
			}
		}
		switch {
		case smaller:
			parts = max(parts-1, 2)
		case size == 1:
			return faults
		default:
			parts *= 2
		}
	}
	return faults
}
