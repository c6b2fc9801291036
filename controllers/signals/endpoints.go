package signals

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// endpoint is the URL by which it is remembered that a path was good once.
func endpoint(p *v1alpha1.Platform, path string) string {
	return strings.TrimSuffix(p.Spec.URL, "/") + path
}

// goodOnce is when the endpoint was good for the first time, by the Platform's status; zero where it never was.
//
// The release before this one kept no endpoints. What its conditions say is good was good once, if the spec is still
// the one that they are about. What they say is bad may never have been good, and is not known to have been: it counts
// as unknown until it is good.
func goodOnce(p *v1alpha1.Platform, condition, url string) time.Time {
	for _, known := range p.Status.Endpoints {
		if known.URL == url {
			return known.GoodAt.Time
		}
	}
	c := meta.FindStatusCondition(p.Status.Conditions, condition)
	if len(p.Status.Endpoints) == 0 && c != nil && c.Status == metav1.ConditionTrue &&
		c.ObservedGeneration == p.Generation {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// goodEndpoints are those that are asked and were good once. Paths that differ in their query only are one endpoint.
func (j *judge) goodEndpoints() []v1alpha1.ProbedEndpoint {
	var good []v1alpha1.ProbedEndpoint
	known := map[string]bool{}
	for _, r := range append([]*run{j.up, j.tokens, j.jwks, j.latency.run}, j.paths...) {
		if r.goodAt.IsZero() || known[r.url] {
			continue
		}
		known[r.url] = true
		good = append(good, v1alpha1.ProbedEndpoint{URL: r.url, GoodAt: new(metav1.NewTime(r.goodAt.Truncate(time.Second)))})
	}
	return good
}
