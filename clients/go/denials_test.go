package tidegate

import (
	"net/http"
	"testing"
	"time"
)

func TestANodeIsNotAskedAgainUntilTheDenialEnds(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	c := client(t, Config{Nodes: []string{node.URL}})
	first, _ := useUp(t, c, slow("u1"))
	asked := node.count()
	for i := 0; i < 20; i++ {
		again := ask(t, c, slow("u1"))
		if again.Allowed || again.Source != FromDenialCache || again.Status != 429 || again.RetryAfter > first.RetryAfter {
			t.Fatalf("%+v", again)
		}
	}
	if node.count() != asked {
		t.Fatalf("the node was asked %d times more", node.count()-asked)
	}
	ask(t, c, slow("u2"))
	if node.count() != asked+1 {
		t.Fatal("the denial of one user covers another")
	}
}

func TestTheNodeIsAskedAgainWhenTheDenialHasEnded(t *testing.T) {
	url, _ := startNode(t, rules)
	c := client(t, Config{Nodes: []string{url}})
	fast := Check{Domain: "api", Attributes: map[string]string{"kind": "fast", "user": "u1"}}
	useUp(t, c, fast)
	for end := time.Now().Add(patience); !ask(t, c, fast).Allowed; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the denial does not end")
		}
	}
}

func TestADenialCoversOnlyChecksOfAtLeastItsHits(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	c := client(t, Config{Nodes: []string{node.URL}})
	of := func(hits uint32) Check {
		check := slow("u1")
		check.Hits = hits
		return check
	}
	ask(t, c, of(3))
	if ask(t, c, of(3)).Allowed || ask(t, c, of(4)).Source != FromDenialCache {
		t.Fatal("expected a denial that covers more hits")
	}
	peek := slow("u1")
	peek.Peek = true
	if decision := ask(t, c, peek); !decision.Allowed || decision.Source != FromNode || *decision.Limits[0].Remaining != 2 {
		t.Fatalf("peek: %+v", decision)
	}
	if decision := ask(t, c, of(2)); !decision.Allowed || decision.Source != FromNode {
		t.Fatalf("%+v", decision)
	}
}

func TestDenialsThatNoWaitEndsAreNotRemembered(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	c := client(t, Config{Nodes: []string{node.URL}})
	check := slow("u1")
	check.Hits = 6
	for i := 1; i <= 2; i++ {
		if decision := ask(t, c, check); decision.Allowed || node.count() != i {
			t.Fatalf("%+v; asked %d times", decision, node.count())
		}
	}
}

func TestTheCacheIsBoundedAndCanBeTurnedOff(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	c := client(t, Config{Nodes: []string{node.URL}, DenialCacheSize: 2})
	for _, user := range []string{"u1", "u2", "u3"} {
		useUp(t, c, slow(user))
	}
	if size := len(c.denials.byKey); size != 2 || c.denials.oldest.Len() != 2 {
		t.Fatalf("%d denials are remembered", size)
	}
	if ask(t, c, slow("u3")).Source != FromDenialCache || ask(t, c, slow("u1")).Source != FromNode {
		t.Fatal("expected the oldest denial to leave")
	}

	off := client(t, Config{Nodes: []string{node.URL}, DenialCacheSize: -1})
	asked := node.count()
	for i := 0; i < 3; i++ {
		ask(t, off, slow("u1"))
	}
	if node.count() != asked+3 {
		t.Fatalf("the node was asked %d times", node.count()-asked)
	}
}

func TestTheTimesOfARememberedDenialGoOn(t *testing.T) {
	cache, start := newDenialCache(10, time.Minute), time.Now()
	denial := &Decision{RetryAfter: 90500 * time.Millisecond, Limits: []Limit{{Reset: 100 * time.Second}}, Header: http.Header{
		"Retry-After": {"91"}, "Ratelimit": {`"a";r=0;t=91, "b";r=7;t=20`},
	}}
	cache.add("key", 1, denial, start)
	later := cache.find("key", 1, start.Add(31*time.Second))
	if later.RetryAfter != 59500*time.Millisecond || later.Limits[0].Reset != 69*time.Second ||
		later.Header.Get("Retry-After") != "60" || later.Header.Get("RateLimit") != `"a";r=0;t=60, "b";r=7;t=0` {
		t.Fatalf("%+v", later)
	}
	if cache.find("key", 1, start.Add(time.Minute)) != nil {
		t.Fatal("expected that a denial is remembered for a minute at most")
	}
	long := string(make([]byte, maxKey+1))
	cache.add("key", 1, &Decision{Allowed: true, RetryAfter: time.Second}, start)
	cache.add("key", 1, &Decision{}, start)
	cache.add("key", 0, denial, start)
	cache.add(long, 1, denial, start)
	cache.add("key", 1, &Decision{RetryAfter: time.Second, Limits: make([]Limit, maxLimits+1)}, start)
	if cache.oldest.Len() != 0 {
		t.Fatal("expected only denials that end, of checks that charge, with a short key and few limits")
	}
}
