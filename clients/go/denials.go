package tidegate

import (
	"container/list"
	"math"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// These bound the memory of the cache.
const (
	// maxKey is the length of the longest key that is remembered, in bytes.
	maxKey = 2048
	// maxLimits is the most limits of a denial that is remembered.
	maxLimits = 20
)

// denialCache remembers denials until they end. Of a full cache, the oldest denial leaves. A nil cache is off.
type denialCache struct {
	lock    sync.Mutex
	size    int
	longest time.Duration
	byKey   map[string]*list.Element
	oldest  *list.List
}

// denial covers every check of its key that asks for at least as many hits.
type denial struct {
	key      string
	hits     uint32
	decision *Decision
	at, end  time.Time
}

func newDenialCache(size int, longest time.Duration) *denialCache {
	return &denialCache{size: size, longest: longest, byKey: map[string]*list.Element{}, oldest: list.New()}
}

// add remembers a decision if it denies and says when asking again helps.
func (c *denialCache) add(key string, hits uint32, decision *Decision, now time.Time) {
	if c == nil || decision.Allowed || decision.RetryAfter <= 0 || hits == 0 {
		return
	}
	if len(key) > maxKey || len(decision.Limits) > maxLimits {
		return
	}
	wait := decision.RetryAfter
	if wait > c.longest {
		wait = c.longest
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	c.remove(key)
	if c.oldest.Len() >= c.size {
		c.remove(c.oldest.Front().Value.(*denial).key)
	}
	// A copy: the caller may change the decision.
	c.byKey[key] = c.oldest.PushBack(&denial{key, hits, decision.after(0), now, now.Add(wait)})
}

// find returns the denial that covers a check, with its times as they are now, or nil.
func (c *denialCache) find(key string, hits uint32, now time.Time) *Decision {
	if c == nil {
		return nil
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	element := c.byKey[key]
	if element == nil {
		return nil
	}
	found := element.Value.(*denial)
	if !now.Before(found.end) {
		c.remove(key)
		return nil
	}
	if hits < found.hits {
		return nil
	}
	return found.decision.after(now.Sub(found.at))
}

// remove forgets a key. The caller holds the lock.
func (c *denialCache) remove(key string) {
	if element := c.byKey[key]; element != nil {
		c.oldest.Remove(element)
		delete(c.byKey, key)
	}
}

// inSeconds matches the time of a limit in the header RateLimit.
var inSeconds = regexp.MustCompile(`;t=(\d+)`)

// after returns a copy of a denial as it reads when some time has passed.
func (d *Decision) after(passed time.Duration) *Decision {
	later := *d
	later.Source = FromDenialCache
	later.RetryAfter = d.RetryAfter - passed
	later.Limits = append([]Limit(nil), d.Limits...)
	for i := range later.Limits {
		if later.Limits[i].Reset -= passed; later.Limits[i].Reset < 0 {
			later.Limits[i].Reset = 0
		}
	}
	later.Header = d.Header.Clone()
	seconds := wholeSeconds(later.RetryAfter)
	gone := wholeSeconds(d.RetryAfter) - seconds
	later.Header.Set("Retry-After", strconv.Itoa(seconds))
	if values := d.Header.Values("Ratelimit"); len(values) > 0 {
		later.Header["Ratelimit"] = []string{inSeconds.ReplaceAllStringFunc(values[0], func(t string) string {
			old, _ := strconv.Atoi(t[len(";t="):])
			if old -= gone; old < 0 {
				old = 0
			}
			return ";t=" + strconv.Itoa(old)
		})}
	}
	return &later
}

// wholeSeconds rounds up, as the node does.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
