package tidegate

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// FailMode is the answer to a check that no node answered.
type FailMode string

const (
	// FailAllow allows the request. The decision says so in Source. It is the default.
	FailAllow FailMode = "allow"
	// FailDeny denies the request with status 503.
	FailDeny FailMode = "deny"
)

const (
	// DefaultDeadline bounds a call to Check with both of its tries.
	DefaultDeadline = 250 * time.Millisecond
	// DefaultDenialCacheSize is how many denials a client remembers.
	DefaultDenialCacheSize = 10_000
	// DefaultDenialCacheLongest is the longest time for which a client remembers a denial.
	DefaultDenialCacheLongest = time.Minute
	// DefaultMaxInFlight is how many calls of a client are in flight at most.
	DefaultMaxInFlight = 64
)

// Config says which nodes a client asks, and what it does when they do not answer.
type Config struct {
	// Nodes are the base URLs of the nodes, such as http://10.0.0.1:8080, in the order of preference. At least one.
	Nodes []string
	// Deadline bounds a call to Check with both of its tries. 0 means DefaultDeadline.
	Deadline time.Duration
	// FailMode is the answer to a check that no node answered. "" means FailAllow.
	FailMode FailMode
	// Token is sent as "Authorization: Bearer". "" sends none.
	Token string
	// DenialCacheSize is how many denials are remembered. 0 means DefaultDenialCacheSize. Less than 0 turns the cache
	// off.
	DenialCacheSize int
	// DenialCacheLongest is the longest time for which a denial is remembered, so that a raised limit is noticed. 0
	// means DefaultDenialCacheLongest.
	DenialCacheLongest time.Duration
	// MaxInFlight is how many calls are in flight at most. Others wait for one of these to end, and their wait counts
	// against the deadline. At most 100 times as many wait; the fail mode decides about every other check at once. 0
	// means DefaultMaxInFlight.
	MaxInFlight int
	// Transport sends the requests. nil means a transport of the client's own, which keeps connections open. A
	// transport of OpenTelemetry adds the trace context of the caller's ctx.
	Transport http.RoundTripper
}

// complete returns the configuration with its defaults, or an error that names the field that is wrong.
func (c Config) complete() (Config, error) {
	if len(c.Nodes) == 0 {
		return c, errors.New("tidegate: Nodes: expected at least one base URL")
	}
	for i, text := range c.Nodes {
		if !isBaseURL(text) {
			return c, fmt.Errorf("tidegate: Nodes[%d]: expected a base URL such as http://10.0.0.1:8080, not %q", i, text)
		}
	}
	if c.Deadline < 0 {
		return c, fmt.Errorf("tidegate: Deadline: expected more than 0, not %s", c.Deadline)
	}
	if c.Token != "" && !isHeaderValue(c.Token) {
		return c, errors.New("tidegate: Token: expected printable ASCII without a line break")
	}
	if c.DenialCacheLongest < 0 {
		return c, fmt.Errorf("tidegate: DenialCacheLongest: expected more than 0, not %s", c.DenialCacheLongest)
	}
	if c.MaxInFlight < 0 {
		return c, fmt.Errorf("tidegate: MaxInFlight: expected more than 0, not %d", c.MaxInFlight)
	}
	if c.FailMode == "" {
		c.FailMode = FailAllow
	}
	if c.FailMode != FailAllow && c.FailMode != FailDeny {
		return c, fmt.Errorf("tidegate: FailMode: expected %q or %q, not %q", FailAllow, FailDeny, c.FailMode)
	}
	if c.Deadline == 0 {
		c.Deadline = DefaultDeadline
	}
	if c.DenialCacheSize == 0 {
		c.DenialCacheSize = DefaultDenialCacheSize
	}
	if c.DenialCacheLongest == 0 {
		c.DenialCacheLongest = DefaultDenialCacheLongest
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = DefaultMaxInFlight
	}
	if c.Transport == nil {
		c.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: c.Deadline}).DialContext,
			MaxIdleConnsPerHost: c.MaxInFlight,
			IdleConnTimeout:     time.Minute,
		}
	}
	return c, nil
}

// isBaseURL returns true for the URL of a node, without a user and a query.
func isBaseURL(text string) bool {
	base, err := url.Parse(text)
	if err != nil || base.Hostname() == "" || base.User != nil || strings.ContainsAny(text, "?#") {
		return false
	}
	if port := base.Port(); port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
	}
	return base.Scheme == "http" || base.Scheme == "https"
}

// isHeaderValue returns true if a text can be sent in a header as it is.
func isHeaderValue(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return text != "" && text == strings.TrimSpace(text)
}
