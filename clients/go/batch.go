package tidegate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

const (
	// maxBatchBody is the longest body of a batch that a node takes.
	maxBatchBody = 1 << 20
	// maxBatchAnswer is how many bytes of the answer to a batch are read.
	maxBatchAnswer = 16 << 20
)

// Result is the answer to one check of a batch: a decision or an error.
type Result struct {
	Decision *Decision
	// Err is a [RejectedError] if this check is not valid.
	Err error
}

// CheckAll asks about up to 1,000 checks in one call. Each is decided for itself, and the results have the order of
// checks. It does what [Client.Check] does, except that the decisions have no Header, denials are neither remembered
// nor found in the denial cache, and the Header of the first check is sent for all of them.
//
// CheckAll returns an error if ctx ends, if the node rejects the whole batch (a [RejectedError]), or if the answer is
// not that of a node.
func (c *Client) CheckAll(ctx context.Context, checks []Check) ([]Result, error) {
	if len(checks) == 0 {
		return nil, nil
	}
	// A check that cannot be sent is rejected here, and the others are asked.
	all := make([]Result, len(checks))
	var sent []checkJSON
	var places []int
	for i := range checks {
		if all[i].Err = checks[i].checkText(""); all[i].Err == nil {
			sent, places = append(sent, checks[i].json()), append(places, i)
		}
	}
	if len(sent) == 0 {
		return all, nil
	}
	body, err := json.Marshal(map[string]any{"checks": sent})
	if err != nil {
		return nil, fmt.Errorf("tidegate: %w", err)
	}
	if len(body) > maxBatchBody {
		return nil, tooLong("1 MiB")
	}
	results, err := c.resultsOf(ctx, call{"/v1/checks", body, checks[0].Header, maxBatchAnswer}, len(sent))
	for i, result := range results {
		all[places[i]] = result
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// resultsOf sends a batch of count checks. The fail mode decides them if no node answers.
func (c *Client) resultsOf(ctx context.Context, call call, count int) ([]Result, error) {
	answer, err := c.sendInPlace(ctx, call)
	if err != nil {
		return c.failModeOfAll(ctx, err, count)
	}
	return c.results(ctx, answer, count)
}

// sendInPlace sends a call when it has a place, within the deadline.
func (c *Client) sendInPlace(ctx context.Context, call call) (*answer, error) {
	bounded, cancel := context.WithTimeout(ctx, c.config.Deadline)
	defer cancel()
	if err := c.places.take(bounded); err != nil {
		return nil, err
	}
	defer c.places.leave()
	end, _ := bounded.Deadline()
	return c.send(ctx, end, call)
}

// failModeOfAll returns the decision of the fail mode about each check.
func (c *Client) failModeOfAll(ctx context.Context, why error, count int) ([]Result, error) {
	results := make([]Result, count)
	for i := range results {
		decision, err := c.failMode(ctx, why)
		if err != nil {
			return nil, err
		}
		results[i].Decision = decision
	}
	return results, nil
}

// resultJSON is a decision or a problem document.
type resultJSON struct {
	decisionJSON
	Error *struct {
		Status int `json:"status"`
		problemJSON
	} `json:"error"`
}

// results reads the answer to a batch. A node that could not decide one of the checks leaves it to the fail mode.
func (c *Client) results(ctx context.Context, answer *answer, count int) ([]Result, error) {
	var read struct {
		Results []resultJSON `json:"results"`
	}
	if answer.status != http.StatusOK || json.Unmarshal(answer.body, &read) != nil || len(read.Results) != count {
		return nil, answer.refusal()
	}
	results := make([]Result, count)
	for i, result := range read.Results {
		problem := result.Error
		var err error
		switch {
		case result.Allowed != nil:
			results[i].Decision = result.decision(result.status())
		case problem == nil || problem.Status < 400:
			return nil, answer.refusal()
		case problem.Status < 500:
			results[i].Err = &RejectedError{problem.Status, problem.Title, problem.Errors}
		default:
			why := fmt.Errorf("tidegate: no node answered: %s: status %d", answer.url, problem.Status)
			if results[i].Decision, err = c.failMode(ctx, why); err != nil {
				return nil, err
			}
		}
	}
	return results, nil
}

// status returns the status that this decision has if it is the answer to one check.
func (d *decisionJSON) status() int {
	switch {
	case *d.Allowed:
		return http.StatusOK
	case strings.HasSuffix(d.Reason, "_key"):
		return http.StatusUnauthorized
	}
	return http.StatusTooManyRequests
}
