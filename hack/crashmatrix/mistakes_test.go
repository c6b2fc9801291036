package crashmatrix_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
)

// patching is true of status patches of a kind whose body contains text.
func patching(kind, text string) func(path, body string) bool {
	return func(path, body string) bool {
		return strings.Contains(path, "/"+kind+"/") && strings.HasSuffix(path, "/status") && strings.Contains(body, text)
	}
}

// body changes what is sent in requests of a method whose path contains path.
func body(method, path string, change func(string) string) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(request *http.Request) (*http.Response, error) {
			if request.Method != method || !strings.Contains(request.URL.Path, path) {
				return next.RoundTrip(request)
			}
			text, err := io.ReadAll(request.Body)
			if err != nil {
				return nil, err
			}
			changed := change(string(text))
			request = request.Clone(request.Context())
			request.Body, request.ContentLength = io.NopCloser(strings.NewReader(changed)), int64(len(changed))
			return next.RoundTrip(request)
		})
	}
}

// answering answers a read by itself.
func answering(path, text string) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(request *http.Request) (*http.Response, error) {
			if request.Method != http.MethodGet || !strings.Contains(request.URL.Path, path) {
				return next.RoundTrip(request)
			}
			return &http.Response{
				StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
				Body: io.NopCloser(bytes.NewBufferString(text)), Request: request,
			}, nil
		})
	}
}

// only applies a change to requests of one method whose path contains path.
func only(method, path string,
	change func(http.RoundTripper) http.RoundTripper) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		changed := change(next)
		return roundTrip(func(request *http.Request) (*http.Response, error) {
			if request.Method == method && strings.Contains(request.URL.Path, path) {
				return changed.RoundTrip(request)
			}
			return next.RoundTrip(request)
		})
	}
}
