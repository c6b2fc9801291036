package dlqreplay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// unwatched returns a manifest for a namespace that no manager watches, for tests of the API alone.
func unwatched(t *testing.T, name, spec string) *unstructured.Unstructured {
	t.Helper()
	obj := &unstructured.Unstructured{}
	text := fmt.Sprintf("{apiVersion: %s, kind: DLQReplay, metadata: {namespace: default, name: %s}, spec: %s}",
		v1alpha1.GroupVersion, name, spec)
	if err := yaml.Unmarshal([]byte(text), &obj.Object); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return obj
}

const (
	misordered       = `deadAfter must be before deadBefore`
	largeEntry       = `an entry id must fit a bigint: at most 9223372036854775807`
	largeApplication = `applicationID must fit a bigint: at most 9223372036854775807`
	together         = `adminAPI goes with via AdminAPI: set adminAPI.nonceSecretRef and via together, or neither`
	named            = `via AdminAPI retries up to 10 named entries: list them in selector.entryIDs, or use via Database`
)

func TestAMistakeIsRefusedAtApplyWithAdvice(t *testing.T) {
	t.Parallel()
	for spec, advice := range map[string]string{
		`selector: {causes: [Bored]}`: `Unsupported value: "Bored": supported values: "ServerError"`,
		`selector: {}`:                `should have at least 1 properties`,
		`ratePerSecond: 0`:            `spec.ratePerSecond in body should be greater than or equal to 1`,
		`ratePerSecond: 100001`:       `spec.ratePerSecond in body should be less than or equal to 100000`,
		`maxInFlight: 0`:              `spec.maxInFlight in body should be greater than or equal to 1`,
		`maxInFlight: 1000001`:        `spec.maxInFlight in body should be less than or equal to 1000000`,
		`maxEntries: 0`:               `spec.maxEntries in body should be greater than or equal to 1`,
		`selector: {deadAfter: "2026-01-02T00:00:00Z", deadBefore: "2026-01-01T00:00:00Z"}`:                 misordered,
		`selector: {deadAfter: "2026-01-02T00:00:00Z", deadBefore: "2026-01-02T00:00:00Z"}`:                 misordered,
		`selector: {entryIDs: ["9223372036854775808"]}`:                                                     largeEntry,
		`selector: {excludeEntryIDs: ["9223372036854775808"]}`:                                              largeEntry,
		`selector: {excludeEntryIDs: ["0"]}`:                                                                `should match`,
		`selector: {eventTypes: ["no\u0000text to Postgres"]}`:                                              `should match`,
		`selector: {entryIDs: ["0"]}`:                                                                       `should match`,
		`applicationID: "9223372036854775808"`:                                                              largeApplication,
		`applicationID: "042"`:                                                                              `should match`,
		`via: AdminAPI, selector: {entryIDs: ["1"]}`:                                                        together,
		`adminAPI: {nonceSecretRef: {name: nonces}}`:                                                        together,
		`via: AdminAPI, adminAPI: {nonceSecretRef: {name: nonces}}`:                                         named,
		`via: AdminAPI, adminAPI: {nonceSecretRef: {name: nonces}}, selector: {entryIDs: [` + eleven + `]}`: named,
		`mode: Pretend`: `Unsupported value: "Pretend": supported values: "Replay", "Plan"`,
		`approvals: [{step: Requeued, digest: "sha256:abc", by: me}]`: `should match`,
	} {
		if !strings.Contains(spec, "applicationID") {
			spec += `, applicationID: "42"`
		}
		err := shared.Kube.Create(t.Context(), unwatched(t, "mistake", "{platformRef: {name: p}, "+spec+"}"),
			client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), advice) {
			t.Errorf("%s: the answer lacks %q: %v", spec, advice, err)
		}
	}
	for _, spec := range []string{
		`applicationID: "9223372036854775807", selector: {entryIDs: ["9223372036854775807"]}`,
		`applicationID: "42", ratePerSecond: 1, maxInFlight: 1000000, canary: {entries: 0}`,
		`applicationID: "42", selector: {deadAfter: "2026-01-01T23:00:00-05:00", deadBefore: "2026-01-02T05:00:00Z"}`,
	} {
		if err := shared.Kube.Create(t.Context(), unwatched(t, "right", "{platformRef: {name: p}, "+spec+"}"),
			client.DryRunAll); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

const eleven = `"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"`

func TestWhatIsFixedCanNotBeAddedChangedOrRemoved(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	full := unwatched(t, "full", `{platformRef: {name: p}, applicationID: "42", mode: Plan,
		via: AdminAPI, adminAPI: {nonceSecretRef: {name: nonces}},
		selector: {entryIDs: ["1"], eventTypes: [a]}, maxEntries: 7, idempotencyConflicts: Leave, maxReplaysPerEntry: 7,
		ratePerSecond: 7, suspend: true,
		approvals: [{step: Requeued, digest: "sha256:`+strings.Repeat("0", 64)+`", by: me}]}`)
	plain := unwatched(t, "plain", `{platformRef: {name: p}, applicationID: "42"}`)
	for _, obj := range []*unstructured.Unstructured{full, plain} {
		if err := shared.Kube.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := shared.Kube.Delete(context.Background(), obj); err != nil {
				t.Error(err)
			}
		})
	}
	try := func(obj *unstructured.Unstructured, spec string) error {
		return shared.Kube.Patch(ctx, obj.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"spec":`+spec+`}`)),
			client.DryRunAll)
	}
	for _, c := range []struct {
		obj         *unstructured.Unstructured
		field, spec string
	}{
		{full, "platformRef", `{"platformRef":{"name":"q"}}`},
		{full, "applicationID", `{"applicationID":"43"}`},
		{full, "selector", `{"selector":{"entryIDs":["2"]}}`},
		{full, "selector", `{"selector":{"eventTypes":null}}`},
		{full, "selector", `{"selector":{"excludeEntryIDs":["2"]}}`},
		{full, "selector", `{"selector":{"causes":["Timeout"]}}`},
		{full, "selector", `{"selector":null}`},
		{plain, "selector", `{"selector":{"causes":["Timeout"]}}`},
		{full, "mode", `{"mode":"Replay"}`},
		{full, "mode", `{"mode":null}`},
		{plain, "mode", `{"mode":"Plan"}`},
		{full, "via", `{"via":"Database"}`},
		{full, "via", `{"via":null}`},
		{plain, "via", `{"via":"AdminAPI"}`},
		{full, "adminAPI", `{"adminAPI":{"nonceSecretRef":{"name":"other"}}}`},
		{full, "adminAPI", `{"adminAPI":null}`},
		{plain, "adminAPI", `{"adminAPI":{"nonceSecretRef":{"name":"nonces"}}}`},
		{full, "maxEntries", `{"maxEntries":8}`},
		{full, "maxEntries", `{"maxEntries":null}`},
		{plain, "maxEntries", `{"maxEntries":8}`},
		{full, "idempotencyConflicts", `{"idempotencyConflicts":"Settle"}`},
		{full, "idempotencyConflicts", `{"idempotencyConflicts":null}`},
		{plain, "idempotencyConflicts", `{"idempotencyConflicts":"Replay"}`},
		{full, "maxReplaysPerEntry", `{"maxReplaysPerEntry":8}`},
		{full, "maxReplaysPerEntry", `{"maxReplaysPerEntry":null}`},
		{plain, "maxReplaysPerEntry", `{"maxReplaysPerEntry":8}`},
	} {
		// kubectl shows the path before the message.
		want := fmt.Sprintf(": %s is fixed once the replay exists: delete it and apply one with a new name", c.field)
		err := try(c.obj, c.spec)
		status := (*apierrors.StatusError)(nil)
		if !errors.As(err, &status) || !slices.ContainsFunc(status.ErrStatus.Details.Causes,
			func(cause metav1.StatusCause) bool {
				return cause.Field == "spec."+c.field && strings.HasSuffix(cause.Message, want)
			}) {
			t.Errorf("%s of %s: the answer lacks spec.%s%s: %v", c.spec, c.obj.GetName(), c.field, want, err)
		}
	}
	for _, spec := range []string{
		`{"ratePerSecond":8}`, `{"ratePerSecond":null}`, `{"maxInFlight":8}`, `{"canary":{"entries":3}}`,
		`{"breaker":{"maxFailurePercent":3}}`,
		`{"deliveryTimeoutSeconds":3}`, `{"suspend":false}`, `{"suspend":null}`, `{"approvals":null}`,
	} {
		for _, obj := range []*unstructured.Unstructured{full, plain} {
			if err := try(obj, spec); err != nil {
				t.Errorf("%s of %s can be changed: %v", spec, obj.GetName(), err)
			}
		}
	}
}
