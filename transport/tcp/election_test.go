package tcp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/mux"
)

// A hello waits for an election, and no longer than its client does.
func TestWhoLeads(t *testing.T) {
	nobody, self, other := mux.Leader{}, mux.Leader{ID: "n1", Self: true}, mux.Leader{ID: "n2", Client: "b:3000"}
	for _, tt := range []struct {
		name       string
		now, later mux.Leader
		after      time.Duration // when later leads
		want       mux.Leader
		from, to   time.Duration // how long it takes
	}{
		{"leads", self, nobody, time.Hour, self, 0, 0},
		{"another leads", other, nobody, time.Hour, other, 0, 0},
		{"elected", nobody, self, 30 * time.Millisecond, self, 30 * time.Millisecond, 30 * time.Millisecond},
		{"another is elected", nobody, other, 30 * time.Millisecond, other, 30 * time.Millisecond, 30*time.Millisecond + spread},
		{"nobody is elected", nobody, self, time.Hour, nobody, electionTime, electionTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, changed := time.Now(), make(chan struct{})
				timer := time.AfterFunc(tt.after, func() { close(changed) })
				defer timer.Stop()
				g := &Gateway{cfg: Config{Leadership: func() (mux.Leader, <-chan struct{}) {
					if time.Since(began) >= tt.after {
						return tt.later, nil
					}
					return tt.now, changed
				}}}
				got := g.whoLeads()
				if took := time.Since(began); got != tt.want || took < tt.from || took > tt.to {
					t.Errorf("%+v after %v, want %+v after %v to %v", got, took, tt.want, tt.from, tt.to)
				}
			})
		})
	}
}
