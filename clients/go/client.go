// Package tidegate asks the nodes of a Tidegate region whether a request may pass.
//
// A [Client] holds connections to the nodes, a deadline, a fail mode, and the denials that have not ended. It is safe
// for concurrent use; make one and share it. [Middleware] puts it in front of a [net/http.Handler].
package tidegate

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// Client asks nodes. Make it with [New].
type Client struct {
	config  Config
	http    http.Client
	nodes   []*node
	places  *places
	denials *denialCache
}

// New returns a client. It opens no connection. The error names the field of config that is wrong.
func New(config Config) (*Client, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	client := &Client{config: config, places: newPlaces(config.MaxInFlight)}
	for _, base := range config.Nodes {
		client.nodes = append(client.nodes, &node{url: strings.TrimRight(base, "/")})
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
// decides: the decision has the Source FromFailMode and says why in Failure. While MaxInFlight calls are in flight, the
// check waits, and its wait counts against the deadline. A check that waited is not sent if less than a quarter of its
// time is left: the fail mode decides.
//
// Check returns an error if ctx ends, if the node rejects the check (a [RejectedError]), or if the answer is not that of
// a node. The fail mode never applies to these.
func (c *Client) Check(ctx context.Context, check Check) (*Decision, error) {
	body, key, err := check.encode()
	if err != nil {
		return nil, err
	}
	hits := check.hitsOfDenial()
	if denial := c.denials.find(key, hits, time.Now()); denial != nil {
		return denial, nil
	}
	bounded, cancel := context.WithTimeout(ctx, c.config.Deadline)
	defer cancel()
	if err := c.places.take(bounded); err != nil {
		return c.failMode(ctx, err)
	}
	defer c.places.leave()
	// While the check waited, another one may have been denied.
	if denial := c.denials.find(key, hits, time.Now()); denial != nil {
		return denial, nil
	}
	end, _ := bounded.Deadline()
	answer, err := c.send(ctx, end, call{"/v1/check", body, check.Header, maxAnswer})
	if err != nil {
		return c.failMode(ctx, err)
	}
	decision, err := answer.decision()
	if err != nil {
		return nil, err
	}
	c.denials.add(key, hits, decision, time.Now())
	return decision, nil
}

// failMode returns the decision about a check that no node answered, or the error of the caller's ctx if that ended.
func (c *Client) failMode(ctx context.Context, why error) (*Decision, error) {
	if err := over(ctx); err != nil {
		return nil, err
	}
	decision := &Decision{Allowed: true, Status: http.StatusOK, Source: FromFailMode, Failure: why, Header: http.Header{}}
	if c.config.FailMode == FailDeny {
		decision.Allowed, decision.Status = false, http.StatusServiceUnavailable
	}
	return decision, nil
}

// over returns why the caller's ctx ended, or nil. A dial may notice the deadline of ctx before ctx does.
func over(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
