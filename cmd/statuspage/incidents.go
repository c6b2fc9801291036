package main

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

var incidentsResource = schema.GroupVersionResource{Group: "playbook.1pass.dev", Version: "v1alpha1",
	Resource: "incidents"}

// Notice is an Incident's status.notice. All of it is for the public.
type Notice struct {
	// ID is the Incident's UID. It tells nothing, and never changes.
	ID    string `json:"id"`
	Title string `json:"title"`
	// State is Investigating, Identified, Monitoring or Resolved.
	State      string       `json:"state"`
	StartedAt  metav1.Time  `json:"startedAt"`
	ResolvedAt *metav1.Time `json:"resolvedAt,omitempty"`
	// Updates have the newest first.
	Updates []Update `json:"updates"`
}

// Update of a Notice.
type Update struct {
	At    metav1.Time `json:"at"`
	State string      `json:"state"`
	Text  string      `json:"text"`
}

// Incidents are the notices of a namespace, by the last answer of the API server.
type Incidents struct {
	cache.SharedIndexInformer

	mu        sync.Mutex
	connected bool
	lostAt    time.Time
}

// newIncidents prepares to follow the Incidents of a namespace. RunWithContext follows them.
func newIncidents(config *rest.Config, namespace string) (*Incidents, error) {
	i := &Incidents{}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &contact{next, i} })
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing the client: %w", err)
	}
	i.SharedIndexInformer = dynamicinformer.NewFilteredDynamicInformer(client, incidentsResource, namespace, 0,
		cache.Indexers{}, nil).Informer()
	if err := i.SetTransform(public); err != nil {
		return nil, fmt.Errorf("preparing the informer: %w", err)
	}
	return i, nil
}

// contact records whether the API server can be reached. A watch that breaks is begun again at once, so the last call
// tells. If the server disappears without closing the connection, the client notices by HTTP/2 pings in about a minute.
// The informer does not tell: it takes a watch that is cut off before it begins for an empty one.
type contact struct {
	next      http.RoundTripper
	incidents *Incidents
}

func (c *contact) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	i, there := c.incidents, err == nil && response.StatusCode == http.StatusOK
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.connected && !there {
		i.lostAt = time.Now()
	}
	i.connected = there
	return response, err
}

// public reduces an Incident to what may be shown and what the cache needs. Nothing else of it is kept in this process.
// Applied to its own result, it changes nothing.
func public(object any) (any, error) {
	incident, ok := object.(*unstructured.Unstructured)
	if !ok {
		return object, nil
	}
	kept := &unstructured.Unstructured{Object: map[string]any{}}
	kept.SetGroupVersionKind(incident.GroupVersionKind())
	kept.SetNamespace(incident.GetNamespace())
	kept.SetName(incident.GetName())
	kept.SetUID(incident.GetUID())
	kept.SetResourceVersion(incident.GetResourceVersion())
	severity, _, _ := unstructured.NestedString(incident.Object, "status", "severity")
	declared, _, _ := unstructured.NestedString(incident.Object, "spec", "severity")
	notice, found, err := unstructured.NestedMap(incident.Object, "status", "notice")
	if severity = cmp.Or(severity, declared); err == nil && found && severity == "sev1" {
		kept.Object["status"] = map[string]any{"severity": severity, "notice": notice}
	}
	return kept, nil
}

// Notices returns the notices by the last answer of the API server. lostAt is since when the API server can't be
// reached, or zero. known is false until it first answered.
func (i *Incidents) Notices() (notices []Notice, lostAt time.Time, known bool) {
	if !i.HasSynced() {
		return nil, time.Time{}, false
	}
	for _, object := range i.GetStore().List() {
		kept, ok := object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		content, found, _ := unstructured.NestedMap(kept.Object, "status", "notice")
		var notice Notice
		if !found || runtime.DefaultUnstructuredConverter.FromUnstructured(content, &notice) != nil {
			continue
		}
		notice.ID = string(kept.GetUID())
		notice.tidy()
		notices = append(notices, notice)
	}
	slices.SortFunc(notices, func(a, b Notice) int {
		return cmp.Or(b.StartedAt.Compare(a.StartedAt.Time), strings.Compare(a.Title, b.Title), strings.Compare(a.ID, b.ID))
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.connected {
		lostAt = i.lostAt
	}
	return notices, lostAt, true
}

// tidy puts the newest update first, and sets the time of the resolution if a resolved notice lacks it. The object has
// the updates in the order in which they were published, and several may have the same second, so their times don't say
// which is newer.
func (n *Notice) tidy() {
	if n.Updates == nil {
		n.Updates = []Update{}
	}
	slices.Reverse(n.Updates)
	if n.State == "Resolved" && n.ResolvedAt == nil {
		n.ResolvedAt = &n.StartedAt
		if len(n.Updates) > 0 {
			n.ResolvedAt = &n.Updates[0].At
		}
	}
}
