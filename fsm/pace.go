package fsm

import "time"

// pace slows applying down when checkpoints are slower than what comes, so that
// commands wait a little each, instead of all of them for a whole checkpoint once
// memory is full. It is used by the goroutine that applies.
type pace struct {
	from, to int64 // unstored bytes between which it slows down more and more
	was      int64 // unstored bytes when it was last asked
}

// longestPause is the longest that a batch is held up before memory is full.
const longestPause = 50 * time.Millisecond

func newPace(cfg Config) pace {
	return pace{from: cfg.MaxDirtyBytes / 2, to: cfg.MaxDirtyBytes}
}

// pause returns how long to wait, so many bytes being unstored by now, while a
// checkpoint stores so many in a second. Half-way, no more comes in than goes out.
func (p *pace) pause(unstored, perSecond int64) time.Duration {
	grown := unstored - p.was
	p.was = unstored
	if grown <= 0 || unstored <= p.from || p.to <= p.from || perSecond <= 0 {
		return 0
	}
	pressure := 2 * float64(unstored-p.from) / float64(p.to-p.from)
	pause := pressure * float64(grown) / float64(perSecond) * float64(time.Second)
	return time.Duration(min(pause, float64(longestPause)))
}
