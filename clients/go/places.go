package tidegate

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// waitersPerPlace is how many calls wait at most, for each call that may be in flight.
const waitersPerPlace = 100

// places bounds how many calls are in flight, and how many wait until one of these ends.
type places struct {
	taken   chan struct{}
	waiting atomic.Int64
}

func newPlaces(inFlight int) *places { return &places{taken: make(chan struct{}, inFlight)} }

// take takes a place, and waits for it until ctx ends. It returns an error if there is none.
func (p *places) take(ctx context.Context) error {
	select {
	case p.taken <- struct{}{}:
		return nil
	default:
	}
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > waitersPerPlace*int64(cap(p.taken)) {
		return errors.New("tidegate: too many calls wait for others to end")
	}
	select {
	case p.taken <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("tidegate: %d other calls were in flight until the deadline", cap(p.taken))
	}
}

// leave gives the place back.
func (p *places) leave() { <-p.taken }
