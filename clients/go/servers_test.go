package tidegate

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of a test.
const patience = 20 * time.Second

const rules = `
version: 1
domains:
  - domain: api
    limits:
      - { name: five-an-hour, match: { kind: slow }, per: [user], limit: 5, window: 1h, algorithm: fixed_window }
      - { name: ten-an-hour, match: { kind: many }, per: [user], limit: 10, window: 1h, algorithm: fixed_window }
      - { name: two-a-second, match: { kind: fast }, per: [user], limit: 2, window: 1s, algorithm: token_bucket }
`

// startNode starts `tidegate dev` with rules, waits until it is ready, and returns its base URL and its process.
func startNode(t *testing.T, rules string) (string, *os.Process) {
	t.Helper()
	program := os.Getenv("TIDEGATE_PROGRAM")
	if program == "" {
		program = "tidegate"
	}
	arguments := []string{"dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--log-format", "json"}
	if rules != "" {
		file := filepath.Join(t.TempDir(), "rules.yaml")
		if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, "--rules", file)
	}
	node := exec.Command(program, arguments...)
	logs, err := node.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatalf("expected TIDEGATE_PROGRAM to name the program: %v", err)
	}
	address := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(logs)
		for lines.Scan() {
			var line struct{ Message, HTTP string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Message == "serving" {
				address <- line.HTTP
			}
		}
		close(address)
	}()
	t.Cleanup(func() {
		node.Process.Kill()
		for range address { // Wait reads no pipe that is still being read.
		}
		node.Wait()
	})
	select {
	case address, ok := <-address:
		if !ok {
			t.Fatal("the node ended before it listened")
		}
		awaitReady(t, "http://"+address)
		return "http://" + address, node.Process
	case <-time.After(patience):
		t.Fatal("the node does not listen")
		return "", nil
	}
}

// awaitReady waits until a node decides.
func awaitReady(t *testing.T, node string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if answer, err := http.Get(node + "/ready"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
	}
	t.Fatal("the node is not ready")
}

// stop makes a node stand still: its connections stay open, and it answers nothing.
func stop(t *testing.T, node *os.Process) {
	t.Helper()
	if err := node.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// recorder stands before a node and keeps the header of every request.
type recorder struct {
	URL  string
	lock sync.Mutex
	seen []http.Header
}

func record(t *testing.T, handler http.Handler) *recorder {
	t.Helper()
	recorder := &recorder{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder.lock.Lock()
		recorder.seen = append(recorder.seen, r.Header.Clone())
		recorder.lock.Unlock()
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	recorder.URL = server.URL
	return recorder
}

func (r *recorder) count() int {
	r.lock.Lock()
	defer r.lock.Unlock()
	return len(r.seen)
}

// before passes requests on to a node.
func before(t *testing.T, node string) http.Handler {
	t.Helper()
	base, err := url.Parse(node)
	if err != nil {
		t.Fatal(err)
	}
	return httputil.NewSingleHostReverseProxy(base)
}

// answering answers every request with one status and one body.
func answering(status int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
}

// silent answers nothing. A request ends when its client gives up.
func silent() http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // The server notices a client that leaves once the body is read.
		<-r.Context().Done()
	})
}

// dead returns the URL of a port where nothing listens.
func dead(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	return server.URL
}

func client(t *testing.T, config Config) *Client {
	t.Helper()
	if config.Deadline == 0 {
		config.Deadline = patience
	}
	made, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func slow(user string) Check {
	return Check{Domain: "api", Attributes: map[string]string{"kind": "slow", "user": user}}
}
