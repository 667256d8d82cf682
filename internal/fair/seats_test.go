package fair

import "testing"

func TestSeats(t *testing.T) {
	s := NewSeats[string](2)
	for i, c := range []struct {
		from, to string
		want     bool
	}{
		{"", "ann", true},
		{"", "ann", true},
		{"", "ann", false},
		{"ann", "ann", true}, // it has one
		{"", "bob", true},
		{"bob", "ann", false}, // and stays bob's
		{"ann", "bob", true},
		{"", "bob", false},
		{"", "ann", true},
		{"ann", "", true}, {"ann", "", true}, {"bob", "", true}, {"bob", "", true},
	} {
		if got := s.Move(c.from, c.to); got != c.want {
			t.Errorf("step %d: from %q to %q: %v", i, c.from, c.to, got)
		}
	}
	if len(s.held) != 0 || s.Refused() != 3 {
		t.Errorf("at the end %v are held, %d were refused", s.held, s.Refused())
	}
	none := NewSeats[string](0)
	for range 10 {
		if !none.Move("", "ann") {
			t.Fatal("without a limit there is one")
		}
	}
}
