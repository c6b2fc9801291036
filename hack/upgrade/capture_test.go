//go:build capture

package upgrade_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// A capture keeps each state that a scene's object goes through: before and after each write to the API server, which
// is where a manager may die. Of states that differ in nothing but times and numbers, the first is kept.
type capture struct {
	*scene
	settings string
	seen     map[string]bool // of all scenes that go into one folder
	name     string          // of the scene, as files begin
	brief    bool            // only how far the object and its rollback are makes a state another one
	journal  journal
}

// record makes a scene whose states are kept.
func record(s *scene, settings, name string, seen map[string]bool) *capture {
	c := &capture{scene: s, settings: settings, seen: seen, name: name}
	s.kube = interceptor.NewClient(kube, interceptor.Funcs{
		Patch: func(ctx context.Context, next client.WithWatch, obj client.Object, patch client.Patch,
			opts ...client.PatchOption) error {
			c.take()
			err := next.Patch(ctx, obj, patch, opts...)
			c.take()
			return err
		},
		SubResourcePatch: func(ctx context.Context, next client.Client, sub string, obj client.Object, patch client.Patch,
			opts ...client.SubResourcePatchOption) error {
			c.take()
			err := next.SubResource(sub).Patch(ctx, obj, patch, opts...)
			c.take()
			return err
		},
	})
	return c
}

// take keeps the state of this moment, unless one like it is there.
func (c *capture) take() {
	c.Helper()
	obj := c.empty()
	if err := c.get(c.ctx, obj); err != nil {
		c.Fatal(err)
	}
	p := &unstructured.Unstructured{}
	p.SetAPIVersion(v1alpha1.GroupVersion.String())
	p.SetKind("Platform")
	if err := admin.Get(c.ctx, types.NamespacedName{Namespace: world.Namespace, Name: c.Name}, p); err != nil {
		c.Fatal(err)
	}
	s := &state{
		Created: obj.GetCreationTimestamp().UTC(), Taken: c.clock().UTC(), Asked: c.Render().Counts().Rollbacks,
		Health: c.health, Settings: c.settings,
		Object: stored(obj), Render: c.Render().Saved(logi.WebService), Pages: c.Services.Pages(),
		Notices: c.Services.Notices(), Tables: c.rows(),
	}
	for i := range s.Pages {
		s.Pages[i].Details, s.Pages[i].Links = nil, nil // nothing depends on them
	}
	status, _, _ := unstructured.NestedMap(p.Object, "status")
	for key := range status {
		if key != "rollbacks" && key != "notice" {
			delete(status, key)
		}
	}
	if len(status) > 0 {
		s.Platform = status
	}
	likeness := s.likeness(c.brief)
	if c.seen[likeness] {
		return
	}
	c.seen[likeness] = true
	plain, err := s.plain(c.names())
	if err != nil {
		c.Fatal(err)
	}
	c.journal = append(c.journal, plain)
}

// save writes what was kept.
func (c *capture) save() {
	c.Helper()
	path := filepath.Join("testdata", strings.ToLower(c.kind), c.name+".yaml")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), c.journal.write(path)); err != nil {
		c.Fatal(err)
	}
}

// stored is the part of an object that another API server accepts.
func stored(obj *unstructured.Unstructured) map[string]any {
	metadata := map[string]any{"name": obj.GetName()}
	for _, field := range []string{"annotations", "finalizers"} {
		if value, ok, _ := unstructured.NestedFieldNoCopy(obj.Object, "metadata", field); ok {
			metadata[field] = value
		}
	}
	return map[string]any{
		"apiVersion": obj.GetAPIVersion(), "kind": obj.GetKind(), "metadata": metadata, "spec": obj.Object["spec"],
		"status": obj.Object["status"],
	}
}

// likeness has the words of a state that say how far the object has come.
func (s *state) likeness(brief bool) string {
	if brief {
		words := []string{fmt.Sprint(s.Render.AutoDeploy, len(s.Render.Deploys))}
		for _, c := range nested(s.Object, "status", "conditions") {
			if c := c.(map[string]any); c["type"] == v1alpha1.ConditionReady || c["type"] == v1alpha1.StepRolledBack {
				words = append(words, fmt.Sprint(c["status"], c["reason"]))
			}
		}
		for _, r := range nested(s.Platform, "rollbacks") {
			words = append(words, fmt.Sprint(r.(map[string]any)["state"], r.(map[string]any)["autoDeploy"]))
		}
		return strings.Join(words, "\n")
	}
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // it came from JSON
	}
	var content any
	if err := json.Unmarshal(text, &content); err != nil {
		panic(err)
	}
	var words []string
	collect(content, "", &words)
	return strings.Join(words, "\n")
}

func nested(content map[string]any, path ...string) []any {
	list, _, _ := unstructured.NestedSlice(content, path...)
	return list
}

// telling are the fields whose value says how far something is.
var telling = []string{
	"type", "status", "reason", "state", "State", "published", "autoDeploy", "category", "rollback", "action", "outcome",
	"swept_dead", "deferred",
	"automation", "mode", "via", "suspend", "schema",
}

// present are fields of which it matters whether they are there.
var present = []string{
	"acknowledgedAt", "resolvedAt", "mitigatedAt", "rolledBackAt", "pagedAt", "closed_at", "planned_at", "canary_at",
	"requeued_at", "resigned_at", "finalizers",
	"deployID", "command", "delivered_at", "successorKid", "approvals", "lastHandledRequestedAt",
}

func collect(v any, path string, words *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			value := v[key]
			if slices.Contains(present, key) && value != nil {
				*words = append(*words, path+"."+key)
			}
			if text, ok := value.(string); ok && slices.Contains(telling, key) {
				*words = append(*words, path+"."+key+"="+text)
			}
			if flag, ok := value.(bool); ok {
				*words = append(*words, fmt.Sprintf("%s.%s=%v", path, key, flag))
			}
			collect(value, path+"."+key, words)
		}
	case []any:
		for _, item := range v {
			collect(item, path+"[]", words)
		}
	}
}

// rows of the tables, those that differ between states.
func (c *capture) rows() map[string][]map[string]any {
	c.Helper()
	rows := map[string][]map[string]any{}
	if c.kind == "Incident" {
		return nil // its Platform has no database
	}
	for _, table := range tables {
		var text []byte
		if err := c.db.QueryRow(c.ctx, fmt.Sprintf(`SELECT coalesce(json_agg(t), '[]') FROM (SELECT * FROM %s) t`,
			table)).Scan(&text); err != nil {
			c.Fatalf("reading %s: %v", table, err)
		}
		var found []map[string]any
		if err := json.Unmarshal(text, &found); err != nil {
			c.Fatal(err)
		}
		for _, row := range found {
			maps.DeleteFunc(row, func(_ string, value any) bool { return value == nil })
		}
		if len(found) > 0 {
			rows[table] = found
		}
	}
	return rows
}

// open creates the object; spec is YAML, indented by nothing.
func (c *capture) open(spec string) {
	c.Helper()
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		c.Fatalf("%s: %v", spec, err)
	}
	content["platformRef"] = map[string]any{"name": c.Name}
	obj := c.empty()
	obj.Object["spec"] = content
	c.create(obj)
}
