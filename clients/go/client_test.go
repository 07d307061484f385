package tidegate

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// ask fails the test if a check is an error.
func ask(t *testing.T, c *Client, check Check) *Decision {
	t.Helper()
	decision, err := c.Check(context.Background(), check)
	if err != nil {
		t.Fatal(err)
	}
	return decision
}

// useUp asks until the check is denied, and returns the denial and how many were allowed.
func useUp(t *testing.T, c *Client, check Check) (*Decision, int) {
	t.Helper()
	for allowed := 0; allowed < 100; allowed++ {
		if decision := ask(t, c, check); !decision.Allowed {
			return decision, allowed
		}
	}
	t.Fatal("expected a denial")
	return nil, 0
}

func TestExactlyTheLimitIsAllowedAndTheDenialHasItsHeaders(t *testing.T) {
	url, _ := startNode(t, rules)
	c := client(t, Config{Nodes: []string{url}})
	first := ask(t, c, slow("u1"))
	if len(first.Limits) != 1 {
		t.Fatalf("%+v", first)
	}
	limit := first.Limits[0]
	if !first.Allowed || first.Status != 200 || first.Source != FromNode || limit.Name != "five-an-hour" ||
		*limit.Limit != 5 || *limit.Remaining != 4 || limit.Window != time.Hour || first.RequestID == "" {
		t.Fatalf("%+v", first)
	}
	denial, allowed := useUp(t, c, slow("u1"))
	if allowed != 4 || denial.Status != 429 || denial.RetryAfter <= 0 || !denial.Limits[0].Refused ||
		denial.Limits[0].Reset <= 0 {
		t.Fatalf("%d were allowed after the first, then %+v", allowed, denial)
	}
	for _, name := range []string{"RateLimit", "RateLimit-Policy", "Retry-After"} {
		if denial.Header.Get(name) == "" {
			t.Errorf("expected the header %s in %v", name, denial.Header)
		}
	}
}

func TestExactlyTheLimitIsAllowedToManyAtOnce(t *testing.T) {
	url, _ := startNode(t, rules)
	c := client(t, Config{Nodes: []string{url}})
	var allowed atomic.Int32
	var all sync.WaitGroup
	for i := 0; i < 40; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			if decision, err := c.Check(context.Background(), slow("u1")); err == nil && decision.Allowed {
				allowed.Add(1)
			}
		}()
	}
	all.Wait()
	if allowed.Load() != 5 {
		t.Fatalf("%d of 40 were allowed", allowed.Load())
	}
}

func TestTheNextNodeIsAskedIfTheFirstFails(t *testing.T) {
	stopped, process := startNode(t, rules)
	stop(t, process)
	for name, first := range map[string]string{
		"dead": dead(t), "stopped": stopped, "shedding": record(t, answering(503, "{}")).URL,
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := startNode(t, rules)
			c := client(t, Config{Nodes: []string{first, url}, Deadline: 2 * time.Second, FailMode: FailDeny})
			if denial, allowed := useUp(t, c, slow("u1")); allowed != 5 || denial.Source != FromNode {
				t.Fatalf("%d were allowed, then %+v", allowed, denial)
			}
		})
	}
}

func TestANodeThatFailedIsAskedAfterTheOthers(t *testing.T) {
	url, _ := startNode(t, rules)
	failing := record(t, answering(500, ""))
	c := client(t, Config{Nodes: []string{failing.URL, url}})
	now := time.Now()
	ask(t, c, slow("u1"))
	if order := c.order(now); order[0].url != url {
		t.Fatalf("asked first: %s", order[0].url)
	}
	if order := c.order(time.Now().Add(pause)); order[0].url != failing.URL {
		t.Fatalf("asked first after the pause: %s", order[0].url)
	}
}

func TestTheFailModeDecidesIfNoNodeAnswers(t *testing.T) {
	failing := record(t, answering(502, ""))
	for mode, expected := range map[FailMode]Decision{
		"":        {Allowed: true, Status: 200},
		FailAllow: {Allowed: true, Status: 200},
		FailDeny:  {Allowed: false, Status: 503},
	} {
		before := failing.count()
		c := client(t, Config{Nodes: []string{dead(t), failing.URL, dead(t)}, FailMode: mode})
		decision := ask(t, c, slow("u1"))
		if decision.Allowed != expected.Allowed || decision.Status != expected.Status ||
			decision.Source != FromFailMode || !strings.Contains(decision.Failure.Error(), "status 502") {
			t.Errorf("%q: %+v", mode, decision)
		}
		if asked := failing.count() - before; asked != 1 {
			t.Errorf("the second node was asked %d times", asked)
		}
	}
}

func TestTheDeadlineBoundsBothTries(t *testing.T) {
	first, second, third := record(t, silent()), record(t, silent()), record(t, silent())
	nodes := []string{first.URL, second.URL, third.URL}
	c := client(t, Config{Nodes: nodes, Deadline: 2 * time.Second})
	ended := make(chan *Decision, 1)
	go func() { ended <- ask(t, c, slow("u1")) }()
	select {
	case decision := <-ended:
		if decision.Source != FromFailMode || first.count() != 1 || second.count() != 1 || third.count() != 0 {
			t.Fatalf("%+v; asked %d, %d, %d times", decision, first.count(), second.count(), third.count())
		}
	case <-time.After(patience):
		t.Fatal("the check does not end")
	}
}

func TestAnAnswerThatGoesOnEndsWithTheDeadline(t *testing.T) {
	dripping := record(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < 2000 && r.Context().Err() == nil; i++ {
			w.Write([]byte(" "))
			w.(http.Flusher).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	}))
	c := client(t, Config{Nodes: []string{dripping.URL}, Deadline: 200 * time.Millisecond})
	if decision := ask(t, c, slow("u1")); decision.Source != FromFailMode {
		t.Fatalf("%+v", decision)
	}
}

func TestASlowNodeWithinTheDeadlineDecides(t *testing.T) {
	url, _ := startNode(t, rules)
	proxy := before(t, url)
	slowNode := record(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(100 * time.Millisecond)
		proxy.ServeHTTP(w, r)
	}))
	c := client(t, Config{Nodes: []string{slowNode.URL}, FailMode: FailDeny})
	if decision := ask(t, c, slow("u1")); !decision.Allowed || decision.Source != FromNode {
		t.Fatalf("%+v", decision)
	}
}

func TestTheCallersContextEndsTheCheckWithAnError(t *testing.T) {
	c := client(t, Config{Nodes: []string{record(t, silent()).URL}})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if decision, err := c.Check(ctx, slow("u1")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%+v, %v", decision, err)
	}
}

func TestACallerThatGivesUpPausesNoNode(t *testing.T) {
	other := record(t, answering(200, `{"allowed":true}`))
	for _, expected := range []error{context.Canceled, context.DeadlineExceeded} {
		node := record(t, silent())
		c := client(t, Config{Nodes: []string{node.URL, other.URL}})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if expected == context.DeadlineExceeded {
			// The caller's deadline comes after a long try, and before the end of the call.
			c = client(t, Config{Nodes: []string{node.URL}, Deadline: time.Second})
			ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
		} else {
			go func() {
				for end := time.Now().Add(patience); node.count() == 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				cancel()
			}()
		}
		if decision, err := c.Check(ctx, slow("u1")); !errors.Is(err, expected) {
			t.Errorf("expected %v, not %+v, %v", expected, decision, err)
		}
		if c.nodes[0].isPaused(time.Now()) {
			t.Errorf("%v paused the node", expected)
		}
	}
	if other.count() != 0 {
		t.Errorf("the next node was asked %d times", other.count())
	}
	if err := over(lateContext{context.Background()}); err != context.DeadlineExceeded {
		t.Errorf("expected the end of the caller's deadline, not %v", err)
	}
}

func TestANodeThatFailsInAShortTryIsNotPaused(t *testing.T) {
	failing := record(t, answering(500, ""))
	for left, paused := range map[time.Duration]bool{patience: true, patience / 5: false} {
		c := client(t, Config{Nodes: []string{failing.URL, failing.URL}})
		before := failing.count()
		answer, err := c.send(context.Background(), time.Now().Add(left), call{path: "/v1/check"})
		if err == nil || failing.count() != before+maxTries {
			t.Errorf("%+v, %v after %d tries", answer, err, failing.count()-before)
		}
		for _, node := range c.nodes {
			if node.isPaused(time.Now()) != paused {
				t.Errorf("with %s left, expected paused: %t", left, paused)
			}
		}
	}
}

func TestARejectedCheckNeverFailsOpen(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	other := record(t, answering(200, `{"allowed":true}`))
	c := client(t, Config{Nodes: []string{node.URL, other.URL}, FailMode: FailAllow})
	long := map[string]string{}
	for _, name := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		long[name] = strings.Repeat("x", 4000)
	}
	for status, check := range map[int]Check{400: {Domain: ""}, 413: {Domain: "api", Attributes: long}} {
		decision, err := c.Check(context.Background(), check)
		var rejected *RejectedError
		if !errors.As(err, &rejected) || rejected.Status != status || rejected.Title == "" {
			t.Errorf("%d: %+v, %v", status, decision, err)
		} else if status == 400 && rejected.Errors[0].Pointer != "/domain" {
			t.Errorf("%v", rejected)
		}
	}
	if node.count() != 1 || other.count() != 0 {
		t.Errorf("asked %d times, and the next node %d times", node.count(), other.count())
	}
	for _, stub := range []http.Handler{
		answering(401, `{"title":"expected Authorization: Bearer"}`), answering(404, "not found"),
		answering(408, "{}"), answering(200, "<html>"), answering(200, `{"allowed":"yes"}`),
		answering(401, `{"allowed":true}`), answering(200, `{"allowed":false}`),
		answering(200, strings.Repeat(" ", maxAnswer)+`{"allowed":true}`), http.RedirectHandler(other.URL, 307),
	} {
		c := client(t, Config{Nodes: []string{record(t, stub).URL}, FailMode: FailAllow})
		if decision, err := c.Check(context.Background(), slow("u1")); err == nil {
			t.Errorf("expected an error, not %+v", decision)
		}
	}
}

func TestA4xxWithABodyThatCannotBeReadNeverFailsOpen(t *testing.T) {
	bodies := map[string]func(http.ResponseWriter, *http.Request){
		"another":       func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "slow down") },
		"contradicting": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"allowed":true}`) },
		"broken":        func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"late":          silent().ServeHTTP,
		"long": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, strings.Repeat(" ", maxAnswer)+`{"allowed":true}`)
		},
	}
	other := record(t, answering(200, `{"allowed":true}`))
	for name, body := range bodies {
		for _, status := range []int{403, 429} {
			// Go 1.19 has one variable for all rounds of a loop.
			body, status := body, status
			stub := record(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(status)
				w.(http.Flusher).Flush()
				body(w, r)
			}))
			c := client(t, Config{Nodes: []string{stub.URL, other.URL}, Deadline: 2 * time.Second})
			decision, err := c.Check(context.Background(), slow("u1"))
			var rejected *RejectedError
			if status == 403 && (!errors.As(err, &rejected) || rejected.Status != 403) {
				t.Errorf("%d %s: %+v, %v", status, name, decision, err)
			}
			if status == 429 && (err != nil || decision.Allowed || decision.Status != 429 ||
				decision.RetryAfter != 7*time.Second || decision.Header.Get("Retry-After") != "7") {
				t.Errorf("%d %s: %+v, %v", status, name, decision, err)
			}
		}
	}
	if other.count() != 0 {
		t.Error("a refused check was sent to the next node")
	}
}

func TestAnInvalidKeyIsADenial(t *testing.T) {
	stub := record(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", "ApiKey")
		w.WriteHeader(401)
		w.Write([]byte(`{"allowed":false,"reason":"revoked_key","retry_after_ms":null,"limits":[]}`))
	}))
	decision := ask(t, client(t, Config{Nodes: []string{stub.URL}}), slow("u1"))
	if decision.Allowed || decision.Status != 401 || decision.Reason != "revoked_key" ||
		decision.Header.Get("WWW-Authenticate") != "ApiKey" {
		t.Fatalf("%+v", decision)
	}
}

func TestTheTransportSaysWhomToTrust(t *testing.T) {
	url, _ := startNode(t, rules)
	secure := httptest.NewTLSServer(before(t, url))
	t.Cleanup(secure.Close)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // One client below ends the handshake.
	trusting := client(t, Config{Nodes: []string{secure.URL}, Transport: secure.Client().Transport})
	if decision := ask(t, trusting, slow("u1")); decision.Source != FromNode {
		t.Fatalf("%+v", decision)
	}
	if decision := ask(t, client(t, Config{Nodes: []string{secure.URL}}), slow("u1")); decision.Source != FromFailMode {
		t.Fatalf("%+v", decision)
	}
}

func TestTextThatIsNotUTF8IsRejected(t *testing.T) {
	url, _ := startNode(t, rules)
	c := client(t, Config{Nodes: []string{url}})
	for pointer, check := range map[string]Check{
		"/domain":                {Domain: "a\xff"},
		"/attributes/user":       {Domain: "api", Attributes: map[string]string{"kind": "slow", "user": "a\xff"}},
		"/attributes/u~1s~0\xff": {Domain: "api", Attributes: map[string]string{"u/s~\xff": ""}},
		"/descriptors/1/user":    {Domain: "api", Descriptors: []map[string]string{{"user": "a"}, {"user": "\xe9"}}},
	} {
		_, err := c.Check(context.Background(), check)
		var rejected *RejectedError
		if !errors.As(err, &rejected) || rejected.Status != 400 || rejected.Errors[0].Pointer != pointer {
			t.Errorf("%q: %v", pointer, err)
		}
		results, err := c.CheckAll(context.Background(), []Check{check, slow("u1")})
		if err != nil || results[1].Decision == nil || !errors.As(results[0].Err, &rejected) {
			t.Errorf("%q: %+v, %v", pointer, results, err)
		} else if rejected.Errors[0].Pointer != pointer {
			t.Errorf("%q: %v", pointer, rejected)
		}
		if results, err = c.CheckAll(context.Background(), []Check{check}); err != nil || results[0].Err == nil {
			t.Errorf("%q: %+v, %v", pointer, results, err)
		}
	}
}

func TestAURLThatIsNoBaseIsAnErrorOfTheConfiguration(t *testing.T) {
	for _, url := range []string{
		"http://a:1 ", "http://a:99999", "http://:80", "http://a?", "http://a#", "http://user:password@a", "ftp://a", "a:1",
	} {
		if _, err := New(Config{Nodes: []string{url}}); err == nil || !strings.Contains(err.Error(), "Nodes[0]") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, url := range []string{"http://a", "https://a:443/x/", "http://[::1]:80"} {
		if _, err := New(Config{Nodes: []string{url}}); err != nil {
			t.Error(err)
		}
	}
}

func TestAWrongConfigurationIsAnErrorThatNamesTheField(t *testing.T) {
	for field, config := range map[string]Config{
		"Nodes:":             {},
		"Nodes[1]":           {Nodes: []string{"http://a:1", "b:2"}},
		"Deadline":           {Nodes: []string{"http://a:1"}, Deadline: -1},
		"FailMode":           {Nodes: []string{"http://a:1"}, FailMode: "open"},
		"Token":              {Nodes: []string{"http://a:1"}, Token: "secret\n"},
		"MaxInFlight":        {Nodes: []string{"http://a:1"}, MaxInFlight: -1},
		"DenialCacheLongest": {Nodes: []string{"http://a:1"}, DenialCacheLongest: -1},
	} {
		if _, err := New(config); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
