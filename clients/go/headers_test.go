package tidegate

import (
	"net/http"
	"strings"
	"testing"
)

func TestTraceContextRequestIDAndTokenArrive(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	c := client(t, Config{Nodes: []string{node.URL}, Token: "secret"})
	check := slow("u1")
	check.Header = http.Header{
		"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "Tracestate": {"a=1, b=2"},
		"X-Request-Id": {"request-7"}, "Cookie": {"private"},
	}
	if decision := ask(t, c, check); decision.RequestID != "request-7" {
		t.Fatalf("%+v", decision)
	}
	seen := node.seen[0]
	for name, values := range check.Header {
		if arrived := seen.Get(name); name != "Cookie" && arrived != values[0] {
			t.Errorf("%s: %q arrived", name, arrived)
		}
	}
	if seen.Get("Authorization") != "Bearer secret" || seen.Get("Cookie") != "" {
		t.Errorf("%v", seen)
	}
}

func TestAHeaderThatCannotBeSentIsLeftOut(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	c := client(t, Config{Nodes: []string{node.URL}})
	for i, value := range []string{"a\r\nb: c", "é", strings.Repeat("x", maxHeader+1)} {
		check := slow("u1")
		check.Header = http.Header{"X-Request-Id": {value}}
		if decision := ask(t, c, check); decision.Source != FromNode || node.seen[i].Get("X-Request-Id") != "" {
			t.Fatalf("%+v, %v", decision, node.seen[i])
		}
	}
}

func TestALongHeaderOfAUserDoesNotSwitchOffTheLimit(t *testing.T) {
	url, _ := startNode(t, rules)
	c := client(t, Config{Nodes: []string{url}, DenialCacheSize: -1, FailMode: FailAllow})
	check := slow("u1")
	useUp(t, c, check)
	long := []string{strings.Repeat("x", 3<<20)}
	check.Header = http.Header{"Traceparent": long, "Tracestate": long, "X-Request-Id": long}
	for i := 0; i < 5; i++ {
		if decision := ask(t, c, check); decision.Allowed {
			t.Fatalf("%+v", decision)
		}
	}
}
