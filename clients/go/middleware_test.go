package tidegate

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// serve starts a server behind the middleware. Its handler says who decided.
func serve(t *testing.T, c *Client, domain string) string {
	t.Helper()
	limited := Middleware(c, func(r *http.Request) (Check, bool) {
		attributes := map[string]string{"kind": "slow", "user": r.Header.Get("X-User")}
		return Check{Domain: domain, Attributes: attributes}, r.URL.Path != "/health"
	}, nil)
	server := httptest.NewServer(limited(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if decision := FromContext(r.Context()); decision != nil {
			w.Header().Set("Decided-By", string(decision.Source))
		}
	})))
	t.Cleanup(server.Close)
	return server.URL
}

func get(t *testing.T, url string, headers ...string) *http.Response {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer
}

func TestTheMiddlewareAnswersDenials(t *testing.T) {
	url, _ := startNode(t, rules)
	node := record(t, before(t, url))
	server := serve(t, client(t, Config{Nodes: []string{node.URL}}), "api")
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for i := 0; i < 5; i++ {
		answer := get(t, server, "X-User", "u1", "traceparent", trace)
		if answer.StatusCode != 200 || answer.Header.Get("RateLimit") == "" || answer.Header.Get("Decided-By") != "node" {
			t.Fatalf("%d: %d %v", i, answer.StatusCode, answer.Header)
		}
	}
	denied := get(t, server, "X-User", "u1")
	if denied.StatusCode != 429 || denied.Header.Get("Retry-After") == "" || denied.Header.Get("RateLimit-Policy") == "" {
		t.Fatalf("%d %v", denied.StatusCode, denied.Header)
	}
	if node.seen[0].Get("Traceparent") != trace {
		t.Error("the trace context did not arrive")
	}
	if answer := get(t, server+"/health", "X-User", "u1"); answer.StatusCode != 200 {
		t.Errorf("a request that is not limited got %d", answer.StatusCode)
	}
}

func TestTheMiddlewareFailsAsConfigured(t *testing.T) {
	url, _ := startNode(t, rules)
	for name, row := range map[string]struct {
		config Config
		domain string
		status int
	}{
		"allow":    {Config{Nodes: []string{dead(t)}}, "api", 200},
		"deny":     {Config{Nodes: []string{dead(t)}, FailMode: FailDeny}, "api", 503},
		"rejected": {Config{Nodes: []string{url}}, "", 500},
	} {
		if answer := get(t, serve(t, client(t, row.config), row.domain)); answer.StatusCode != row.status {
			t.Errorf("%s: %d", name, answer.StatusCode)
		}
	}
}

func TestTheExampleRuns(t *testing.T) {
	url, _ := startNode(t, "")
	program := t.TempDir() + "/example"
	if out, err := exec.Command("go", "build", "-o", program, "./example").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	example := exec.Command(program)
	example.Env = append(os.Environ(), "TIDEGATE_URL="+url, "LISTEN=127.0.0.1:0")
	out, err := example.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := example.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { example.Process.Kill(); example.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	server := strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	for i := 1; i <= 6; i++ {
		if answer := get(t, server, "X-User", "u1"); (answer.StatusCode == 429) != (i == 6) {
			t.Fatalf("request %d: %d", i, answer.StatusCode)
		}
	}
}
