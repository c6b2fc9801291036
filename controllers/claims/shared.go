package claims

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
)

// A Target is outside of Kubernetes, and two Platforms may name it: by mistake, or since one is a copy of the other.
// The Incidents of both would do the same twice there, since what a Platform keeps in its status is not seen by
// another. So the oldest Platform that names a target holds it, and the others change nothing there. The zero Target is
// none.
type Target struct {
	// key is the same for each Platform that names the target.
	key string
	// What it is, for people.
	What string
}

// Service is the target of a service in render.services: its ID at the API's URL.
func Service(p *v1alpha1.Platform, name string) Target {
	id := access.RenderServiceID(p, name)
	if id == "" {
		return Target{}
	}
	api := p.Spec.Render.URL
	if u, err := url.Parse(api); err == nil {
		api = strings.ToLower(u.Host) + strings.TrimSuffix(u.Path, "/")
	}
	return Target{api + "/services/" + id, fmt.Sprintf("Render's service %s", id)}
}

// Page is the target of a page at Statuspage.io. Where cmd/statuspage serves the page, there is none: it reads the
// Incidents of a namespace.
func Page(p *v1alpha1.Platform) Target {
	if p.Spec.StatusPage == nil || p.Spec.StatusPage.PageID == "" {
		return Target{}
	}
	id := p.Spec.StatusPage.PageID
	return Target{"statuspage/" + id, fmt.Sprintf("the status page %s", id)}
}

// names says whether a Platform names the target.
func (t Target) names(p *v1alpha1.Platform) bool {
	if Page(p).key == t.key {
		return true
	}
	return p.Spec.Render != nil && slices.ContainsFunc(p.Spec.Render.Services,
		func(s v1alpha1.RenderService) bool { return Service(p, s.Name).key == t.key })
}

// Namers are the Platforms of the watched namespaces that name a target, the oldest first. A decision about an effect
// reads them past the cache.
func (c Claims) Namers(ctx context.Context, reader client.Reader, p *v1alpha1.Platform,
	t Target) ([]v1alpha1.Platform, error) {
	if t.key == "" {
		return nil, nil
	}
	namespaces := c.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{p.Namespace}
	}
	var found []v1alpha1.Platform
	// The manager may list Platforms in these namespaces, and not in the cluster.
	for _, namespace := range namespaces {
		var list v1alpha1.PlatformList
		if err := reader.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("looking which Platforms name %s: %w", t.What, err)
		}
		for _, other := range list.Items {
			if t.names(&other) {
				found = append(found, other)
			}
		}
	}
	slices.SortFunc(found, func(a, b v1alpha1.Platform) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name))
	})
	return found, nil
}

// HeldElsewhere says which other Platform holds a target, and what to do about it. It is empty where p may change the
// target. What p sees here and does at once can only be done twice if another Platform begins to name the target in
// that very moment.
func (c Claims) HeldElsewhere(ctx context.Context, reader client.Reader, p *v1alpha1.Platform, t Target) (string,
	error) {
	namers, err := c.Namers(ctx, reader, p, t)
	if err != nil || len(namers) == 0 || isSame(&namers[0], p) {
		return "", err
	}
	return fmt.Sprintf("Platform %s is older, names %s too, and holds it. Leave that to its Incidents, or do it by hand. "+
		"To end this, take it out of the spec of one of the two Platforms", client.ObjectKeyFromObject(&namers[0]),
		t.What), nil
}

func isSame(a, b *v1alpha1.Platform) bool {
	return types.NamespacedName{Namespace: a.Namespace, Name: a.Name} == client.ObjectKeyFromObject(b)
}
