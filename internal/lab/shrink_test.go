package lab

import (
	"slices"
	"testing"
)

func TestShrink(t *testing.T) {
	all := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	for _, culprits := range [][]int{{}, {1}, {11}, {4, 9}, {1, 6, 11}} {
		runs := 0
		fails := func(only []int) bool {
			runs++
			for _, c := range culprits {
				if !slices.Contains(only, c) {
					return false
				}
			}
			return true
		}
		if got := Shrink(all, 100, fails); !slices.Equal(got, culprits) {
			t.Errorf("%v is left of what needs %v", got, culprits)
		}
		if runs = 0; len(Shrink(all, 3, fails)) < len(culprits) || runs > 3 {
			t.Errorf("%d reruns, 3 were allowed", runs)
		}
	}
	if len(all) != 11 || all[10] != 11 {
		t.Errorf("the list of faults was changed: %v", all)
	}
}
