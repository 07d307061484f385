// Package tidegate asks the nodes of a Tidegate region whether a request may pass.
//
// A [Client] holds connections to the nodes, a deadline, a fail mode, and the denials that have not ended. It is safe
// for concurrent use; make one and share it. [Middleware] puts it in front of a [net/http.Handler].
package tidegate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// pause is how long a node that failed is asked only after the others.
	pause = time.Second
	// maxTries is how often a check is sent at most.
	maxTries = 2
)

// Client asks nodes. Make it with [New].
type Client struct {
	config  Config
	http    http.Client
	nodes   []*node
	denials *denialCache
}

// node is where checks are sent, and until when this node is asked only after the others.
type node struct {
	url         string
	lock        sync.Mutex
	pausedUntil time.Time
}

// failedNode says why a node gave no answer: the next node may give one.
type failedNode struct {
	url string
	why error
}

func (f *failedNode) Error() string { return f.url + ": " + f.why.Error() }
func (f *failedNode) Unwrap() error { return f.why }

// New returns a client. It opens no connection. The error names the field of config that is wrong.
func New(config Config) (*Client, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	client := &Client{config: config}
	for _, base := range config.Nodes {
		client.nodes = append(client.nodes, &node{url: strings.TrimRight(base, "/") + "/v1/check"})
	}
	client.http = http.Client{
		Transport: config.Transport,
		// A node never redirects. A redirect is an answer that is no decision.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if config.DenialCacheSize > 0 {
		client.denials = newDenialCache(config.DenialCacheSize, config.DenialCacheLongest)
	}
	return client, nil
}

// Check asks whether a request may pass. It returns within the deadline, or when ctx ends if that is earlier.
//
// If a node cannot be reached, does not answer in its part of the deadline, or answers with status 5xx, the next node is
// asked, once. A check that a node charged before it failed is then charged twice. If no node answers, the fail mode
// decides: the decision has the Source FromFailMode and says why in Failure.
//
// Check returns an error if ctx ends, if the node rejects the check (a [RejectedError]), or if the answer is not that of
// a node. The fail mode never applies to these.
func (c *Client) Check(ctx context.Context, check Check) (*Decision, error) {
	body, key, err := check.encode()
	if err != nil {
		return nil, err
	}
	if denial := c.denials.find(key, check.hits(), time.Now()); denial != nil {
		return denial, nil
	}
	bounded, cancel := context.WithTimeout(ctx, c.config.Deadline)
	defer cancel()
	var failures []string
	for try, node := range c.order(time.Now()) {
		decision, err := c.ask(bounded, node, body, check.Header, try)
		var failed *failedNode
		switch {
		case err == nil:
			c.denials.add(key, check.hits(), decision, time.Now())
			return decision, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.As(err, &failed):
			return nil, err
		}
		node.pauseUntil(time.Now().Add(pause))
		failures = append(failures, failed.Error())
		if bounded.Err() != nil {
			break
		}
	}
	return c.failed(errors.New("tidegate: no node answered: " + strings.Join(failures, "; "))), nil
}

// ask sends a check to one node. The first try takes at most half of the time if there is another node.
func (c *Client) ask(ctx context.Context, node *node, body []byte, from http.Header, try int) (*Decision, error) {
	if deadline, ok := ctx.Deadline(); ok && try == 0 && len(c.nodes) > 1 {
		half, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
		ctx = half
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, node.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("tidegate: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	if c.config.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.config.Token)
	}
	for _, name := range []string{"Traceparent", "Tracestate", "X-Request-Id"} {
		if value := strings.Join(from.Values(name), ", "); isHeaderValue(value) {
			request.Header.Set(name, value)
		}
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, &failedNode{node.url, errors.Unwrap(err)}
	}
	defer answer.Body.Close()
	return decode(node.url, answer)
}

// order returns the nodes that a check asks: those that did not just fail come first.
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

// failed returns the decision of the fail mode.
func (c *Client) failed(why error) *Decision {
	decision := &Decision{Allowed: true, Status: http.StatusOK, Source: FromFailMode, Failure: why, Header: http.Header{}}
	if c.config.FailMode == FailDeny {
		decision.Allowed, decision.Status = false, http.StatusServiceUnavailable
	}
	return decision
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
