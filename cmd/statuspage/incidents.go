package main

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

var incidentsResource = schema.GroupVersionResource{Group: "playbook.1pass.dev", Version: "v1alpha1", Resource: "incidents"}

// Notice is an Incident's status.notice, all of which is written for the public.
type Notice struct {
	Title string `json:"title"`
	// State is Investigating, Identified, Monitoring or Resolved.
	State      string       `json:"state"`
	StartedAt  metav1.Time  `json:"startedAt"`
	ResolvedAt *metav1.Time `json:"resolvedAt,omitempty"`
	// Updates, newest first.
	Updates []Update `json:"updates"`
}

// Update of a Notice.
type Update struct {
	At    metav1.Time `json:"at"`
	State string      `json:"state"`
	Text  string      `json:"text"`
}

// Incidents are the notices of a namespace, as the API server last told them.
type Incidents struct {
	store cache.Store
	cache.Controller

	mu        sync.Mutex
	connected bool
	lostAt    time.Time
}

// watch prepares to follow the Incidents of a namespace, from Run on.
func watch(client dynamic.Interface, namespace string) *Incidents {
	i := &Incidents{}
	resource := client.Resource(incidentsResource).Namespace(namespace)
	// A watch that breaks is begun again at once, so that whether the last call succeeded says whether the API server is there.
	// Where it vanishes without a word, the client notices by HTTP/2 pings within 45 s.
	lister := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := resource.List(ctx, options)
			i.note(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
			events, err := resource.Watch(ctx, options)
			i.note(err)
			return events, err
		},
	}
	i.store, i.Controller = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(lister, client),
		ObjectType:    &unstructured.Unstructured{},
		Transform:     public,
	})
	return i
}

// Run follows the Incidents until ctx ends.
func (i *Incidents) Run(ctx context.Context) { i.RunWithContext(ctx) }

func (i *Incidents) note(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil && i.connected {
		i.lostAt = time.Now()
	}
	i.connected = err == nil
}

// public leaves of an Incident what may be shown, and what the cache needs: nothing else of it is kept in this process.
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
	if err == nil && found && cmp.Or(severity, declared) == "sev1" {
		kept.Object["notice"] = notice
	}
	return kept, nil
}

// Notices as the API server told them, and since when it has told nothing; zero where it is there. known is false before it first
// answered.
func (i *Incidents) Notices() (notices []Notice, lostAt time.Time, known bool) {
	if !i.HasSynced() {
		return nil, time.Time{}, false
	}
	for _, object := range i.store.List() {
		kept, ok := object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		content, found, _ := unstructured.NestedMap(kept.Object, "notice")
		var notice Notice
		if !found || runtime.DefaultUnstructuredConverter.FromUnstructured(content, &notice) != nil {
			continue
		}
		notice.tidy()
		notices = append(notices, notice)
	}
	slices.SortFunc(notices, func(a, b Notice) int {
		return cmp.Or(b.StartedAt.Compare(a.StartedAt.Time), strings.Compare(a.Title, b.Title))
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.connected {
		lostAt = i.lostAt
	}
	return notices, lostAt, true
}

// tidy sorts the updates, newest first, and gives a resolved notice the time when it was.
func (n *Notice) tidy() {
	if n.Updates == nil {
		n.Updates = []Update{}
	}
	slices.SortStableFunc(n.Updates, func(a, b Update) int { return b.At.Compare(a.At.Time) })
	if n.State == "Resolved" && n.ResolvedAt == nil {
		n.ResolvedAt = &n.StartedAt
		if len(n.Updates) > 0 {
			n.ResolvedAt = &n.Updates[0].At
		}
	}
}
