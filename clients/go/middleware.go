package tidegate

import (
	"context"
	"net/http"
)

type contextKey struct{}

// Middleware returns a middleware that asks for each request before the handler sees it.
//
// describe returns what to ask for a request, or false for a request that is not limited. The client fills in Header if
// it is nil. A request that is allowed gets the headers of the decision, and its handler finds the decision with
// [FromContext]. A request that is denied is answered with the decision's status and headers. A check that is an error is
// answered with status 500 and given to onError, which may be nil.
func Middleware(
	client *Client, describe func(*http.Request) (Check, bool), onError func(*http.Request, error),
) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			check, limited := describe(r)
			if !limited {
				next.ServeHTTP(w, r)
				return
			}
			if check.Header == nil {
				check.Header = r.Header
			}
			decision, err := client.Check(r.Context(), check)
			if err != nil {
				if onError != nil {
					onError(r, err)
				}
				http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
				return
			}
			decision.copyTo(w.Header())
			if !decision.Allowed {
				http.Error(w, http.StatusText(decision.Status), decision.Status)
				return
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, decision)))
		})
	}
}

// FromContext returns the decision that [Middleware] got for a request, or nil.
func FromContext(ctx context.Context) *Decision {
	decision, _ := ctx.Value(contextKey{}).(*Decision)
	return decision
}

// copyTo sets the headers of a decision on a response.
func (d *Decision) copyTo(header http.Header) {
	for name, values := range d.Header {
		header[name] = values
	}
}
