package tidegate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// maxAnswer is how many bytes of the answer to one check are read.
const maxAnswer = 1 << 20

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

// decisionJSON is the JSON of a decision.
type decisionJSON struct {
	Allowed      *bool       `json:"allowed"`
	Degraded     bool        `json:"degraded"`
	Partitioned  bool        `json:"partitioned"`
	Reason       string      `json:"reason"`
	Revision     uint64      `json:"revision"`
	RequestID    string      `json:"request_id"`
	RetryAfterMS int64       `json:"retry_after_ms"`
	Limits       []limitJSON `json:"limits"`
}

type limitJSON struct {
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

type problemJSON struct {
	Title  string       `json:"title"`
	Errors []FieldError `json:"errors"`
}

// decision reads the answer to one check.
func (a *answer) decision() (*Decision, error) {
	var read decisionJSON
	problem := json.Unmarshal(a.body, &read)
	switch a.status {
	case http.StatusOK, http.StatusTooManyRequests, http.StatusUnauthorized:
		// Only a status of 200 allows.
		if problem == nil && read.Allowed != nil && *read.Allowed == (a.status == http.StatusOK) {
			decision := read.decision(a.status)
			decision.copyHeader(a.header)
			return decision, nil
		}
	}
	if a.status == http.StatusTooManyRequests {
		return plainDenial(a.header), nil
	}
	return nil, a.refusal()
}

// refusal returns the error of an answer that decides nothing.
func (a *answer) refusal() error {
	if a.status < 400 {
		return fmt.Errorf("tidegate: %s: expected the answer of a node, not status %d with another body", a.url, a.status)
	}
	var problem problemJSON
	if json.Unmarshal(a.body, &problem) != nil || problem.Title == "" {
		problem.Title = http.StatusText(a.status)
	}
	return &RejectedError{a.status, problem.Title, problem.Errors}
}

func (d *decisionJSON) decision(status int) *Decision {
	decision := &Decision{
		Allowed: *d.Allowed, Status: status, Source: FromNode, Degraded: d.Degraded, Partitioned: d.Partitioned,
		Reason: d.Reason, Revision: d.Revision, RequestID: d.RequestID, RetryAfter: milliseconds(d.RetryAfterMS),
		Header: http.Header{},
	}
	for _, l := range d.Limits {
		decision.Limits = append(decision.Limits, Limit{
			l.Name, l.Descriptor, l.Algorithm, l.Limit, l.Remaining, milliseconds(l.WindowMS), milliseconds(l.ResetMS),
			l.Refused, l.Shadow,
		})
	}
	return decision
}

// plainDenial returns the decision of an answer with status 429 whose body is not that of a decision.
func plainDenial(header http.Header) *Decision {
	decision := &Decision{Status: http.StatusTooManyRequests, Source: FromNode, Header: http.Header{}}
	if seconds, err := strconv.ParseUint(header.Get("Retry-After"), 10, 32); err == nil {
		decision.RetryAfter = time.Duration(seconds) * time.Second
	}
	decision.copyHeader(header)
	return decision
}

// copyHeader copies the fields that belong on the response to the user.
func (d *Decision) copyHeader(header http.Header) {
	for _, name := range []string{"Ratelimit", "Ratelimit-Policy", "Retry-After", "Www-Authenticate"} {
		if values := header.Values(name); len(values) > 0 {
			d.Header[name] = values
		}
	}
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
