package tidegate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"
)

// maxBody is the longest body of a check that a node takes. A node may close the connection of a longer one before its
// answer is read, as if it had failed.
const maxBody = 64 << 10

// Check says what is asked.
type Check struct {
	// Domain is the domain of the rules. Required.
	Domain string
	// Attributes are what the rules match and count by: one descriptor. Their names and values must be UTF-8.
	Attributes map[string]string
	// Descriptors are several descriptors, 1 to 100. They stand in place of Attributes. The check is allowed if all
	// limits of all of them allow it.
	Descriptors []map[string]string
	// Hits is how many hits the request costs. 0 means 1.
	Hits uint32
	// Peek asks whether one hit would pass, and charges nothing. Hits does not count then.
	Peek bool
	// Overdraft charges the hits even if they do not fit, for a cost that is known only afterwards. The decision still
	// says whether they fit. Such a check always asks a node.
	Overdraft bool
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

// hitsOfDenial returns the hits of a denial that may cover this check. No denial covers 0 hits.
func (c *Check) hitsOfDenial() uint32 {
	if c.Overdraft {
		return 0
	}
	return c.hits()
}

// counted is the part of a check's JSON that says which counters it charges.
type counted struct {
	Domain      string              `json:"domain"`
	Attributes  map[string]string   `json:"attributes,omitempty"`
	Descriptors []map[string]string `json:"descriptors,omitempty"`
}

// checkJSON is a check as it is sent.
type checkJSON struct {
	counted
	Hits      uint32 `json:"hits"`
	Overdraft bool   `json:"overdraft,omitempty"`
}

func (c *Check) json() checkJSON {
	return checkJSON{counted{c.Domain, c.Attributes, c.Descriptors}, c.hits(), c.Overdraft}
}

// checkText returns an error if a text is not UTF-8. JSON would replace its bytes, so that different values would share
// a counter. at is the JSON pointer of the check.
func (c *Check) checkText(at string) error {
	if !utf8.ValidString(c.Domain) {
		return notUTF8(at + "/domain")
	}
	if err := checkAttributes(at+"/attributes/", c.Attributes); err != nil {
		return err
	}
	for i, descriptor := range c.Descriptors {
		if err := checkAttributes(fmt.Sprintf("%s/descriptors/%d/", at, i), descriptor); err != nil {
			return err
		}
	}
	return nil
}

func checkAttributes(at string, attributes map[string]string) error {
	for name, value := range attributes {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return notUTF8(at + strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
		}
	}
	return nil
}

func notUTF8(pointer string) error {
	return &RejectedError{http.StatusBadRequest, "the request is not valid", []FieldError{{pointer, "expected UTF-8"}}}
}

// encode returns the body of the call, and the key under which a denial is remembered.
func (c *Check) encode() (body []byte, key string, err error) {
	if err := c.checkText(""); err != nil {
		return nil, "", err
	}
	sent := c.json()
	if body, err = json.Marshal(sent); err != nil {
		return nil, "", fmt.Errorf("tidegate: %w", err)
	}
	if len(body) > maxBody {
		return nil, "", tooLong("64 KiB")
	}
	// The names of a map are sorted.
	text, err := json.Marshal(sent.counted)
	if err != nil {
		return nil, "", fmt.Errorf("tidegate: %w", err)
	}
	return body, string(text), nil
}

// tooLong is the error of a body that no node takes.
func tooLong(most string) error {
	return &RejectedError{
		Status: http.StatusRequestEntityTooLarge, Title: "expected a body of at most " + most,
	}
}
