package tidegate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"
)

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 1 << 20

// maxBody is the longest body that a node takes. A node may close the connection of a longer one before its answer is
// read, as if it had failed.
const maxBody = 64 << 10

// Check says what is asked.
type Check struct {
	// Domain is the domain of the rules. Required.
	Domain string
	// Attributes are what the rules match and count by.
	Attributes map[string]string
	// Hits is how many hits the request costs. 0 means 1.
	Hits uint32
	// Peek asks whether one hit would pass, and charges nothing. Hits does not count then.
	Peek bool
	// Header has the header fields of the request on whose behalf is asked. Its traceparent, tracestate and x-request-id
	// are sent to the node; the others are not.
	Header http.Header
}

// hits returns the hits that are sent.
func (c *Check) hits() uint32 {
	switch {
	case c.Peek:
		return 0
	case c.Hits == 0:
		return 1
	}
	return c.Hits
}

// encode returns the body of the call, and the key under which a denial is remembered.
func (c *Check) encode() (body []byte, key string, err error) {
	attributes := c.Attributes
	if attributes == nil {
		attributes = map[string]string{}
	}
	body, err = json.Marshal(map[string]any{"domain": c.Domain, "attributes": attributes, "hits": c.hits()})
	if err != nil {
		return nil, "", fmt.Errorf("tidegate: %w", err)
	}
	if len(body) > maxBody {
		return nil, "", &RejectedError{Status: http.StatusRequestEntityTooLarge, Title: "expected a body of at most 64 KiB"}
	}
	names := make([]string, 0, len(attributes))
	for name := range attributes {
		names = append(names, name)
	}
	sort.Strings(names)
	var text strings.Builder
	fmt.Fprintf(&text, "%q", c.Domain)
	for _, name := range names {
		fmt.Fprintf(&text, " %q=%q", name, attributes[name])
	}
	return body, text.String(), nil
}

// Source says who decided.
type Source string

const (
	// FromNode means that a node answered this check.
	FromNode Source = "node"
	// FromDenialCache means that an earlier denial has not ended. No node was asked.
	FromDenialCache Source = "denial_cache"
	// FromFailMode means that no node answered. Failure says why.
	FromFailMode Source = "fail_mode"
)

// Decision is the answer to a check.
type Decision struct {
	// Allowed is true if the request may pass.
	Allowed bool
	// Status is the status to answer with: 200, 429, 401 for an API key that is not valid, or 503 if no node answered
	// and the fail mode denies.
	Status int
	// Source says who decided. An allowed decision that is FromFailMode was not counted by any node.
	Source Source
	// Degraded is true if the node decided without its store.
	Degraded bool
	// Partitioned is true if the region decided without the counts of other regions.
	Partitioned bool
	// Reason names why the check is denied if no limit denied it, such as unknown_key.
	Reason string
	// Revision is the revision of the rules.
	Revision uint64
	// RequestID is the id under which the node knows the check.
	RequestID string
	// RetryAfter is how long to wait before asking again helps. 0 if the check is allowed or if no wait helps.
	RetryAfter time.Duration
	// Limits are the limits that apply.
	Limits []Limit
	// Header has RateLimit, RateLimit-Policy, Retry-After and WWW-Authenticate, as far as the node sent them, to be
	// copied to the response.
	Header http.Header
	// Failure says why no node answered. nil unless Source is FromFailMode.
	Failure error
}

// Limit is the state of one limit after a check.
type Limit struct {
	Name       string
	Descriptor int
	Algorithm  string
	// Limit is the hits of a window. nil means unlimited.
	Limit *uint64
	// Remaining is the hits that are left. nil means unlimited.
	Remaining *uint64
	Window    time.Duration
	// Reset is the time until the whole limit is free again if nothing more is asked.
	Reset time.Duration
	// Refused is true if this limit denies the check.
	Refused bool
	// Shadow is true if the limit only reports.
	Shadow bool
}

// RejectedError is the answer to a check that the node does not take: 400, 401 without a reason, 413 and so on.
type RejectedError struct {
	// Status is the HTTP status.
	Status int
	// Title says what is wrong.
	Title string
	// Errors name the fields that are wrong.
	Errors []FieldError
}

// FieldError says what is wrong with one field of a check.
type FieldError struct {
	// Pointer is the JSON pointer of the field, such as /attributes/user.
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

func (e *RejectedError) Error() string {
	text := fmt.Sprintf("tidegate: the check was rejected with status %d: %s", e.Status, e.Title)
	for _, field := range e.Errors {
		text += fmt.Sprintf("; %s: %s", field.Pointer, field.Detail)
	}
	return text
}

// answer is the JSON of a decision, and of a rejection.
type answer struct {
	Allowed      *bool        `json:"allowed"`
	Degraded     bool         `json:"degraded"`
	Partitioned  bool         `json:"partitioned"`
	Reason       string       `json:"reason"`
	Revision     uint64       `json:"revision"`
	RequestID    string       `json:"request_id"`
	RetryAfterMS int64        `json:"retry_after_ms"`
	Limits       []limit      `json:"limits"`
	Title        string       `json:"title"`
	Errors       []FieldError `json:"errors"`
}

type limit struct {
	Name       string  `json:"name"`
	Descriptor int     `json:"descriptor"`
	Algorithm  string  `json:"algorithm"`
	Limit      *uint64 `json:"limit"`
	Remaining  *uint64 `json:"remaining"`
	WindowMS   int64   `json:"window_ms"`
	ResetMS    int64   `json:"reset_ms"`
	Refused    bool    `json:"refused"`
	Shadow     bool    `json:"shadow"`
}

// decode reads an answer to the end, so that its connection can be used again.
func decode(url string, response *http.Response) (*Decision, error) {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode >= 500 {
		return nil, &failedNode{url, fmt.Errorf("status %d", response.StatusCode)}
	}
	// A status of 4xx refuses the check even if its body cannot be read.
	if err != nil && response.StatusCode < 400 {
		return nil, &failedNode{url, err}
	}
	var read answer
	problem := json.Unmarshal(text, &read)
	switch response.StatusCode {
	case http.StatusOK, http.StatusTooManyRequests, http.StatusUnauthorized:
		if problem == nil && read.Allowed != nil {
			return read.decision(response), nil
		}
	}
	if response.StatusCode == http.StatusTooManyRequests {
		return plainDenial(response), nil
	}
	if response.StatusCode < 400 {
		return nil, errors.New("tidegate: " + url + ": expected the answer of a node, not " + response.Status)
	}
	if read.Title == "" {
		read.Title = http.StatusText(response.StatusCode)
	}
	return nil, &RejectedError{response.StatusCode, read.Title, read.Errors}
}

func (a *answer) decision(response *http.Response) *Decision {
	decision := &Decision{
		Allowed: *a.Allowed, Status: response.StatusCode, Source: FromNode, Degraded: a.Degraded,
		Partitioned: a.Partitioned, Reason: a.Reason, Revision: a.Revision, RequestID: a.RequestID,
		RetryAfter: milliseconds(a.RetryAfterMS), Header: http.Header{},
	}
	for _, l := range a.Limits {
		decision.Limits = append(decision.Limits, Limit{
			l.Name, l.Descriptor, l.Algorithm, l.Limit, l.Remaining, milliseconds(l.WindowMS), milliseconds(l.ResetMS),
			l.Refused, l.Shadow,
		})
	}
	decision.copyHeader(response)
	return decision
}

// plainDenial returns the decision of an answer with status 429 whose body is not that of a decision.
func plainDenial(response *http.Response) *Decision {
	decision := &Decision{Status: response.StatusCode, Source: FromNode, Header: http.Header{}}
	if seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 32); err == nil {
		decision.RetryAfter = time.Duration(seconds) * time.Second
	}
	decision.copyHeader(response)
	return decision
}

// copyHeader copies the fields that belong on the response to the user.
func (d *Decision) copyHeader(response *http.Response) {
	for _, name := range []string{"Ratelimit", "Ratelimit-Policy", "Retry-After", "Www-Authenticate"} {
		if values := response.Header.Values(name); len(values) > 0 {
			d.Header[name] = values
		}
	}
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
