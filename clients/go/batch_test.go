package tidegate

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func askAll(t *testing.T, c *Client, checks ...Check) []Result {
	t.Helper()
	results, err := c.CheckAll(context.Background(), checks)
	if err != nil || len(results) != len(checks) {
		t.Fatalf("%+v, %v", results, err)
	}
	return results
}

func TestEachCheckOfABatchIsDecidedForItself(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	c := client(t, Config{Nodes: []string{node.URL}})
	all := slow("u1")
	all.Hits = 5
	all.Header = http.Header{"X-Request-Id": {"request-7"}}
	results := askAll(t, c, all, slow("u1"), Check{}, slow("u2"))
	if first := results[0].Decision; !first.Allowed || first.Status != 200 || first.RequestID != "request-7" {
		t.Errorf("%+v", first)
	}
	if second := results[1].Decision; second.Allowed || second.Status != 429 || second.RetryAfter <= 0 {
		t.Errorf("%+v", second)
	}
	var rejected *RejectedError
	if !errors.As(results[2].Err, &rejected) || rejected.Status != 400 || rejected.Errors[0].Pointer != "/domain" {
		t.Errorf("%+v", results[2])
	}
	if fourth := results[3].Decision; *fourth.Limits[0].Remaining != 4 || node.count() != 1 {
		t.Errorf("%+v; the node was asked %d times", fourth, node.count())
	}
	if none, err := c.CheckAll(context.Background(), nil); none != nil || err != nil || node.count() != 1 {
		t.Errorf("%v, %v", none, err)
	}
}

func TestTheFailModeDecidesAboutABatchThatNoNodeAnswers(t *testing.T) {
	c := client(t, Config{Nodes: []string{dead(t)}, FailMode: FailDeny})
	for _, result := range askAll(t, c, slow("u1"), slow("u2")) {
		if result.Decision.Source != FromFailMode || result.Decision.Status != 503 {
			t.Errorf("%+v", result)
		}
	}
	stub := record(t, answering(200, `{"results":[{"error":{"status":503}},{"allowed":false,"reason":"unknown_key"}]}`))
	results := askAll(t, client(t, Config{Nodes: []string{stub.URL}}), slow("u1"), slow("u2"))
	if shed := results[0].Decision; shed.Source != FromFailMode || !strings.Contains(shed.Failure.Error(), "status 503") {
		t.Errorf("%+v", shed)
	}
	if results[1].Decision.Status != 401 {
		t.Errorf("%+v", results[1].Decision)
	}
}

func TestARejectedBatchNeverFailsOpen(t *testing.T) {
	url, _ := startNode(t, rules)
	c := client(t, Config{Nodes: []string{url}, FailMode: FailAllow})
	long := slow(strings.Repeat("x", 4000))
	for status, count := range map[int]int{400: 1001, 413: 300} {
		checks := make([]Check, count)
		for i := range checks {
			if status == 413 {
				checks[i] = long
			}
		}
		var rejected *RejectedError
		if _, err := c.CheckAll(context.Background(), checks); !errors.As(err, &rejected) || rejected.Status != status {
			t.Errorf("%d: %v", status, err)
		}
	}
	for _, body := range []string{"{}", `{"results":[]}`, `{"results":[{}]}`, `{"results":[{"error":{}}]}`} {
		stub := record(t, answering(200, body))
		results, err := client(t, Config{Nodes: []string{stub.URL}}).CheckAll(context.Background(), []Check{slow("u1")})
		if err == nil {
			t.Errorf("%s: expected an error, not %+v", body, results)
		}
	}
}

func TestAllDescriptorsOfACheckMustFit(t *testing.T) {
	url, _ := startNode(t, rules)
	c := client(t, Config{Nodes: []string{url}})
	both := Check{Domain: "api", Descriptors: []map[string]string{slow("u1").Attributes, slow("u2").Attributes}}
	if decision := ask(t, c, both); len(decision.Limits) != 2 || decision.Limits[1].Descriptor != 1 {
		t.Fatalf("%+v", decision)
	}
	if _, allowed := useUp(t, c, slow("u2")); allowed != 4 {
		t.Fatalf("%d were allowed", allowed)
	}
	if denial := ask(t, c, both); denial.Allowed || denial.Limits[0].Refused || !denial.Limits[1].Refused {
		t.Fatalf("%+v", denial)
	}
	if again := ask(t, c, both); again.Source != FromDenialCache {
		t.Fatalf("%+v", again)
	}
	other := Check{Domain: "api", Descriptors: both.Descriptors[:1]}
	if decision := ask(t, c, other); !decision.Allowed || *decision.Limits[0].Remaining != 3 {
		t.Fatalf("%+v", decision)
	}
	both.Attributes = map[string]string{"user": "u3"}
	if _, err := c.Check(context.Background(), both); err == nil || !strings.Contains(err.Error(), "/descriptors") {
		t.Fatalf("expected an error that names descriptors, not %v", err)
	}
}

func TestOverdraftChargesInAnyCase(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	c := client(t, Config{Nodes: []string{node.URL}})
	costly := slow("u1")
	costly.Hits, costly.Overdraft = 4, true
	first, second := ask(t, c, costly), ask(t, c, costly)
	if !first.Allowed || second.Allowed || second.Source != FromNode {
		t.Fatalf("%+v, %+v", first, second)
	}
	if after := ask(t, c, slow("u1")); after.Allowed || after.Source != FromNode {
		t.Fatalf("%+v", after)
	}
	if again := ask(t, c, costly); again.Source != FromNode || node.count() != 4 {
		t.Fatalf("%+v; the node was asked %d times", again, node.count())
	}
}
