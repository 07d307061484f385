package tidegate

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// waitersPerPlace is how many calls wait at most, for each call that may be in flight.
const waitersPerPlace = 100

// places bounds how many calls are in flight, and how many wait until one of these ends.
type places struct {
	taken   chan struct{}
	waiting atomic.Int64
}

func newPlaces(inFlight int) *places { return &places{taken: make(chan struct{}, inFlight)} }

// take takes a place, and waits for it until ctx ends, which must have a deadline. A place that comes when less than a
// quarter of the time is left is given back. take returns an error if there is no place.
func (p *places) take(ctx context.Context) error {
	select {
	case p.taken <- struct{}{}:
		return nil
	default:
	}
	end, _ := ctx.Deadline()
	latest := end.Add(-time.Until(end) / 4)
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > waitersPerPlace*int64(cap(p.taken)) {
		return errors.New("tidegate: too many calls wait for others to end")
	}
	select {
	case p.taken <- struct{}{}:
		if time.Now().Before(latest) {
			return nil
		}
		p.leave()
	case <-ctx.Done():
	}
	return fmt.Errorf("tidegate: %d other calls were in flight until the deadline was near", cap(p.taken))
}

// leave gives the place back.
func (p *places) leave() { <-p.taken }
