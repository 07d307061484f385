package tidegate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// pause is how long a node that failed is asked only after the others.
	pause = time.Second
	// maxTries is how often a call is sent at most.
	maxTries = 2
	// maxHeader is the length of the longest header field that is passed on. A user may choose these fields, and a node
	// closes a connection whose head is too long, as if it had failed.
	maxHeader = 1024
)

// passedOn are the header fields of the caller's request that are sent to the node.
var passedOn = []string{"Traceparent", "Tracestate", "X-Request-Id"}

// node is where calls are sent, and until when this node is asked only after the others.
type node struct {
	url         string
	lock        sync.Mutex
	pausedUntil time.Time
}

// call is what is sent to a node.
type call struct {
	path string
	body []byte
	// from has the header fields of the request on whose behalf is asked.
	from http.Header
	// maxAnswer is how many bytes of the answer are read.
	maxAnswer int64
}

// answer is what a node answered, with a status below 500.
type answer struct {
	url    string
	status int
	header http.Header
	body   []byte
}

// send sends a call to one node after another until one answers, end has come, or the caller's ctx ends. The error says
// why none answered.
func (c *Client) send(ctx context.Context, end time.Time, call call) (*answer, error) {
	var failures []string
	for try, node := range c.order(time.Now()) {
		within := time.Until(end)
		if try == 0 && len(c.nodes) > 1 {
			// The first try leaves time for another node.
			within /= 2
		}
		answer, err := c.ask(ctx, within, node, call)
		if err == nil {
			return answer, nil
		}
		if err := over(ctx); err != nil {
			return nil, err
		}
		// A node that fails in a short try may be well.
		if within >= c.config.Deadline/4 {
			node.pauseUntil(time.Now().Add(pause))
		}
		failures = append(failures, node.url+call.path+": "+err.Error())
		if !time.Now().Before(end) {
			break
		}
	}
	return nil, errors.New("tidegate: no node answered: " + strings.Join(failures, "; "))
}

// ask sends a call to one node, and reads its answer within some time.
func (c *Client) ask(ctx context.Context, within time.Duration, node *node, call call) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, node.url+call.path, bytes.NewReader(call.body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if c.config.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.config.Token)
	}
	for _, name := range passedOn {
		if value := strings.Join(call.from.Values(name), ", "); isHeaderValue(value) && len(value) <= maxHeader {
			request.Header.Set(name, value)
		}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer response.Body.Close()
	// An answer is read to the end, so that its connection can be used again.
	body, err := io.ReadAll(io.LimitReader(response.Body, call.maxAnswer))
	if response.StatusCode >= 500 {
		return nil, fmt.Errorf("status %d", response.StatusCode)
	}
	// A status of 4xx refuses the check even if its body cannot be read.
	if err != nil && response.StatusCode < 400 {
		return nil, err
	}
	return &answer{request.URL.String(), response.StatusCode, response.Header, body}, nil
}

// order returns the nodes that a call asks: those that did not just fail come first.
func (c *Client) order(now time.Time) []*node {
	var all, paused []*node
	for _, node := range c.nodes {
		if node.isPaused(now) {
			paused = append(paused, node)
		} else {
			all = append(all, node)
		}
	}
	all = append(all, paused...)
	if len(all) == 1 {
		// One address may stand for several nodes: a second try may reach another one.
		all = append(all, all[0])
	}
	return all[:maxTries]
}

func (n *node) isPaused(now time.Time) bool {
	n.lock.Lock()
	defer n.lock.Unlock()
	return now.Before(n.pausedUntil)
}

func (n *node) pauseUntil(end time.Time) {
	n.lock.Lock()
	defer n.lock.Unlock()
	n.pausedUntil = end
}
