package tidegate

import (
	"context"
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
	for name, size := range map[string]int{"a denial cache": 0, "no denial cache": -1} {
		// A node that is overloaded costs the whole deadline.
		c := client(t, Config{Nodes: []string{node.URL}, FailMode: FailAllow, Deadline: 5 * time.Second, DenialCacheSize: size})
		many := Check{Domain: "api", Attributes: map[string]string{"kind": "many", "user": name}}
		allowed := 0
		for _, decision := range atOnce(t, c, 1000, func(int) Check { return many }) {
			if decision.Allowed {
				allowed++
			}
		}
		if allowed != 10 {
			t.Errorf("with %s, %d of 1000 were allowed", name, allowed)
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
	node := record(t, silent())
	c := client(t, Config{Nodes: []string{node.URL}, MaxInFlight: 1, Deadline: time.Second, FailMode: FailDeny})
	if err := c.places.take(context.Background()); err != nil {
		t.Fatal(err)
	}
	reasons := map[string]int{}
	for _, decision := range atOnce(t, c, waitersPerPlace+2, func(int) Check { return slow("u1") }) {
		for _, reason := range []string{"in flight until the deadline", "too many calls wait"} {
			if decision.Status == 503 && strings.Contains(decision.Failure.Error(), reason) {
				reasons[reason]++
			}
		}
	}
	if reasons["in flight until the deadline"] != waitersPerPlace || reasons["too many calls wait"] != 2 {
		t.Fatalf("%v", reasons)
	}
	if node.count() != 0 {
		t.Fatalf("the node was asked %d times", node.count())
	}
}
