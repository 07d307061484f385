package tidegate

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// overloaded stands before a node. It answers nothing while it has more than some requests at once.
func overloaded(t *testing.T, node string, most int64) *recorder {
	t.Helper()
	proxy, hang := before(t, node), silent()
	var inFlight atomic.Int64
	return record(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if inFlight.Add(1) > most {
			hang.ServeHTTP(w, r)
			inFlight.Add(-1)
			return
		}
		answer := httptest.NewRecorder()
		proxy.ServeHTTP(answer, r)
		// The client may send its next request when it has the answer.
		inFlight.Add(-1)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	}))
}

// atOnce makes many checks at once, and returns the decisions.
func atOnce(t *testing.T, c *Client, count int, check func(int) Check) []*Decision {
	t.Helper()
	decisions := make([]*Decision, count)
	var all sync.WaitGroup
	for i := range decisions {
		i := i // Go 1.19 has one variable for all rounds of a loop.
		all.Add(1)
		go func() {
			defer all.Done()
			var err error
			if decisions[i], err = c.Check(context.Background(), check(i)); err != nil {
				t.Error(err)
			}
		}()
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return decisions
}

func TestABurstOfChecksDoesNotOverloadTheNode(t *testing.T) {
	url, _ := startNode(t, rules)
	node := overloaded(t, url, DefaultMaxInFlight)
	for count, size := range map[int]int{1000: 0, 200: -1} {
		c := client(t, Config{Nodes: []string{node.URL}, FailMode: FailAllow, DenialCacheSize: size})
		many := Check{Domain: "api", Attributes: map[string]string{"kind": "many", "user": fmt.Sprint(count)}}
		allowed := 0
		for _, decision := range atOnce(t, c, count, func(int) Check { return many }) {
			if decision.Allowed {
				allowed++
			}
		}
		if allowed != 10 {
			t.Errorf("%d of %d were allowed", allowed, count)
		}
	}
}

func TestACheckThatWaitedIsDeniedByTheAnswerToAnother(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	c := client(t, Config{Nodes: []string{node.URL}, MaxInFlight: 1})
	atOnce(t, c, 100, func(int) Check { return slow("u1") })
	if node.count() != 6 {
		t.Fatalf("the node was asked %d times", node.count())
	}
}

func TestTheWaitForAPlaceEndsWithTheDeadlineAndFewWait(t *testing.T) {
	node := record(t, answering(200, `{"allowed":true}`))
	c := client(t, Config{Nodes: []string{node.URL}, MaxInFlight: 1, Deadline: 200 * time.Millisecond, FailMode: FailDeny})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.places.take(ctx); err != nil {
		t.Fatal(err)
	}
	late := ask(t, c, slow("u1"))
	if late.Status != 503 || !strings.Contains(late.Failure.Error(), "until the deadline was near") {
		t.Fatalf("%+v", late)
	}
	taken := make(chan error)
	for i := 0; i < waitersPerPlace; i++ {
		go func() { taken <- c.places.take(ctx) }()
	}
	for c.places.waiting.Load() < waitersPerPlace && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	many := ask(t, c, slow("u1"))
	if many.Status != 503 || !strings.Contains(many.Failure.Error(), "too many calls wait") {
		t.Fatalf("%+v", many)
	}
	if node.count() != 0 {
		t.Fatalf("the node was asked %d times", node.count())
	}
	for i := 0; i < waitersPerPlace; i++ {
		c.places.leave()
		if err := <-taken; err != nil {
			t.Fatal(err)
		}
	}
}

// lateContext is a context that has not noticed yet that its deadline has passed.
type lateContext struct{ context.Context }

func (lateContext) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

func TestAPlaceThatComesTooLateIsGivenBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	places := newPlaces(1)
	if err := places.take(ctx); err != nil {
		t.Fatal(err)
	}
	taken := make(chan error)
	go func() { taken <- places.take(lateContext{ctx}) }()
	for places.waiting.Load() == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	places.leave()
	if err := <-taken; err == nil || !strings.Contains(err.Error(), "until the deadline was near") {
		t.Fatalf("expected no place, not %v", err)
	}
	if len(places.taken) != 0 {
		t.Fatal("the place was not given back")
	}
}
