package evidencematrix

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// variants are managers that are broken on purpose. Each names a cell. It is caught if the cell's outcome differs from
// the table.
var variants = []struct {
	name   string
	cell   cell
	faulty faults
}{
	{"acts on Unknown", cell{outage, Unknown, person, notGiven, ""}, faults{signals: unknownIsBad}},
	{"closes on Good from before", cell{outage, BadBefore, person, notGiven, ""}, faults{before: confirmByThePast}},
	{"counts any Incident's onset", cell{outage, Bad, person, notGiven, otherOpen}, faults{before: suspectByTheFirst}},
	{"one open Incident blocks all", cell{outage, Bad, person, notGiven, otherOpen}, faults{client: oneSlot}},
	{"a rise does not page", cell{outage, Rises, person, notGiven, ""}, faults{transport: swallowSev1{}}},
	{"NotNeeded settled while looks fail", cell{outage, Rises, person, notGiven, ""}, faults{before: settleEarly}},
	{"an approval used for another pair", cell{outage, BadBy4xx, person, notGiven, approvedOther},
		faults{client: anyDigest}},
	{"an alert is taken for a person", cell{keyExposed, Good, bySignals, notGiven, ""}, faults{client: nobodysAlert}},
	{"an approval of anything ends a key", cell{keyExposed, Good, bySignals, notGiven, approvedOther},
		faults{client: anyKeyDigest}},
	{"an alert that nothing confirmed settles", cell{webhook, Bad, bySignals, sev1, ""}, faults{client: nobodysAlert}},
	{"settles and tells while an Outage is open", cell{webhook, Bad, person, notGiven, outageOpen},
		faults{client: noOutage}},
	{"settles and tells although ObserveOnly", cell{webhook, Bad, person, notGiven, observeOnly},
		faults{client: alwaysEnabled}},
}

// catch plays the variants, and returns how many are caught.
func catch(t *testing.T) (caught int) {
	for i, v := range variants {
		want, _ := v.cell.want()
		got, err := v.cell.play(t.Context(), fmt.Sprintf("variant-%d", i), v.faulty)
		switch {
		case err != nil:
			t.Errorf("%s ended without an outcome: %v", v.name, err)
		case got == want:
			t.Errorf("%s is not caught: %q", v.name, got)
		default:
			caught++
		}
	}
	return caught
}

func unknownIsBad(each []signals.Signal) (turned []signals.Signal) {
	for _, s := range each {
		if s.State == metav1.ConditionUnknown && s.Condition == up {
			s = bad(up, v1alpha1.Sev1, true, time.Now().Add(-30*time.Second))
		}
		turned = append(turned, s)
	}
	return turned
}

// rewrite merges JSON into the status of an object, as if a manager with other rules had written it.
func (s *scene) rewrite(obj client.Object, name, merge string) error {
	obj.SetNamespace(s.name)
	obj.SetName(name)
	return kube.Status().Patch(s.ctx, obj, client.RawPatch(types.MergePatchType, []byte(merge)))
}

// confirmByThePast confirms an Incident by a signal that was bad before it.
func confirmByThePast(s *scene, name string) error {
	return s.rewrite(&v1alpha1.Incident{}, name, fmt.Sprintf(
		`{"status":{"confirmedAt":%q,"confirmedBy":"UpAnswers"}}`, s.opened.UTC().Format(time.RFC3339)))
}

// suspectByTheFirst calls the commit that was live at the onset of an unconfirmed Incident unfit.
func suspectByTheFirst(s *scene, _ string) error {
	return s.rewrite(&v1alpha1.Platform{}, "p", fmt.Sprintf(
		`{"status":{"suspects":[{"service":"web","commit":"a1","incident":"first","at":%q}]}}`,
		s.opened.UTC().Format(time.RFC3339)))
}

// settleEarly settles the rollback while only a signal of sev2 is bad.
func settleEarly(s *scene, name string) error {
	obj, err := s.get(name)
	if err != nil {
		return err
	}
	for i, c := range obj.Status.Conditions {
		if c.Type == v1alpha1.StepRolledBack {
			obj.Status.Conditions[i].Status, obj.Status.Conditions[i].Reason = metav1.ConditionFalse, v1alpha1.ReasonNotNeeded
		}
	}
	return kube.Status().Update(s.ctx, obj)
}

// swallowSev1 answers 202 to each sev1 page, and PagerDuty does not get it.
type swallowSev1 struct{}

func (swallowSev1) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(r.URL.Path, "/enqueue") {
		return http.DefaultTransport.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	if !strings.Contains(string(body), `"critical"`) {
		return http.DefaultTransport.RoundTrip(r)
	}
	return &http.Response{StatusCode: http.StatusAccepted, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(`{"status":"success"}`)), Request: r}, nil
}

// reading is a client whose answers are changed before the manager sees them.
func reading(change func(client.Object)) func(client.WithWatch) client.Client {
	return func(c client.WithWatch) client.Client {
		return interceptor.NewClient(c, interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
				opts ...client.GetOption) error {
				err := c.Get(ctx, key, obj, opts...)
				if err == nil {
					change(obj)
				}
				return err
			},
		})
	}
}

// oneSlot puts the first Incident, of any category, into the slot of the outage.
var oneSlot = reading(func(obj client.Object) {
	switch o := obj.(type) {
	case *v1alpha1.Platform:
		for i := range o.Status.Incidents {
			if o.Status.Incidents[i].Incident == "first" {
				o.Status.Incidents[i].Category = outage
			}
		}
	case *v1alpha1.Incident:
		if o.Name == "first" {
			o.Spec.Category = outage
		}
	}
})

// anyDigest takes every approval as one of the planned pair.
var anyDigest = reading(func(obj client.Object) {
	if o, ok := obj.(*v1alpha1.Incident); ok && o.Status.Rollback != nil {
		for i := range o.Spec.Approvals {
			o.Spec.Approvals[i].Digest = o.Status.Rollback.Digest
		}
	}
})

// nobodysAlert hides who opened an Incident.
var nobodysAlert = reading(func(obj client.Object) {
	if o, ok := obj.(*v1alpha1.Incident); ok {
		delete(o.Annotations, v1alpha1.AnnotationSeenBy)
		delete(o.Annotations, v1alpha1.AnnotationSeenSeverity)
	}
})

// noOutage hides Outages in lists.
func noOutage(c client.WithWatch) client.Client {
	return interceptor.NewClient(c, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			err := c.List(ctx, list, opts...)
			if all, ok := list.(*v1alpha1.IncidentList); ok {
				all.Items = slices.DeleteFunc(all.Items, func(i v1alpha1.Incident) bool { return i.Spec.Category == outage })
			}
			return err
		},
	})
}

// alwaysEnabled does not see the red button.
var alwaysEnabled = reading(func(obj client.Object) {
	if p, ok := obj.(*v1alpha1.Platform); ok {
		p.Spec.Automation = v1alpha1.AutomationEnabled
	}
})

// anyKeyDigest takes every approval as one of the end of the key.
var anyKeyDigest = reading(func(obj client.Object) {
	if o, ok := obj.(*v1alpha1.Incident); ok && o.Spec.Category == keyExposed {
		for i := range o.Spec.Approvals {
			if asked := askedFor(o); asked != "" {
				o.Spec.Approvals[i].Digest = asked
			}
		}
	}
})
