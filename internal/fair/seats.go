package fair

import (
	"sync"
	"sync/atomic"
)

// Seats bounds what each of many has at a time: the connections of a user. The
// memory for it is bounded by what is held. The zero key is nobody's, and needs none.
type Seats[K comparable] struct {
	most    int // 0: no limit
	refused atomic.Uint64

	mu   sync.Mutex
	held map[K]int
}

// NewSeats returns most seats for each; 0: as many as are asked for.
func NewSeats[K comparable](most int) *Seats[K] {
	return &Seats[K]{most: most, held: make(map[K]int)}
}

// Move gives up from's seat and takes one of to's, unless all of those are held:
// then nothing changes, and it reports false.
func (s *Seats[K]) Move(from, to K) bool {
	var nobody K
	if s.most <= 0 || from == to {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if to != nobody {
		if s.held[to] >= s.most {
			s.refused.Add(1)
			return false
		}
		s.held[to]++
	}
	if from != nobody {
		if s.held[from]--; s.held[from] == 0 {
			delete(s.held, from)
		}
	}
	return true
}

// Most is how many seats each has; 0: there is no limit.
func (s *Seats[K]) Most() int { return s.most }

// Refused is how often there was no seat.
func (s *Seats[K]) Refused() uint64 { return s.refused.Load() }
