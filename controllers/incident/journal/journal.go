// Package journal keeps an Incident's status: what was decided, written under the optimistic lock, and the timeline of
// what happened.
package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

const (
	// maxTimeline is v1alpha1's.
	maxTimeline = 50
	// maxText is v1alpha1's, of an entry of the timeline.
	maxText = 512
	// Settle is how long a call may still take effect after its answer was lost. It is longer than the timeouts of Render,
	// of the channels and of the status page.
	Settle = 30 * time.Second
	// Action is what an Incident's events say that the controller did.
	Action = "Respond"
)

// Journal is the record of one Incident in one pass.
type Journal struct {
	// Visit saves the status.
	*playbook.Visit[*v1alpha1.Incident]
	Client client.Client
	// APIReader reads past the cache.
	APIReader client.Reader
	Recorder  events.EventRecorder
	// Clock is the manager's.
	Clock func() time.Time

	// Incident as this pass sees and changes it.
	Incident *v1alpha1.Incident
	// Platform that it is about.
	Platform *v1alpha1.Platform
	// Now is the instant that this pass decides at. A step that took long brings it up to date.
	Now time.Time
}

// Open begins the record of a pass over the Incident of a visit.
func Open(j Journal) *Journal {
	j.Incident, j.Now = j.Obj, j.Clock()
	return &j
}

// Until is how long to wait for an instant, at least a moment.
func (j *Journal) Until(t time.Time) time.Duration { return max(t.Sub(j.Now), time.Millisecond) }

// Seconds makes a time for a status, which keeps no more than seconds.
func Seconds(t time.Time) *metav1.Time { return new(metav1.NewTime(t.Truncate(time.Second))) }

// Text cuts an error to what a status takes, and takes out what differs in each try.
func Text(err error) string { return fmt.Sprintf("%.500s", playbook.Normalise(err.Error())) }

// Record enters what happened into the timeline, and emits it as an event. The timeline's first entry stays.
func (j *Journal) Record(reason, format string, args ...any) {
	j.record("Normal", reason, format, args...)
}

// Warn is Record for what a person should look at.
func (j *Journal) Warn(reason, format string, args ...any) {
	j.record("Warning", reason, format, args...)
}

func (j *Journal) record(kind, reason, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText-3], "") + "…"
	}
	timeline := append(j.Incident.Status.Timeline, v1alpha1.TimelineEntry{At: Seconds(j.Now), Text: text})
	if len(timeline) > maxTimeline {
		timeline = slices.Delete(timeline, 1, 1+len(timeline)-maxTimeline)
	}
	j.Incident.Status.Timeline = timeline
	j.Recorder.Eventf(j.Incident, nil, kind, reason, Action, "%s", text)
}

// SaveOutcome writes what an effect came to. Where somebody changed the object meanwhile, it is read again and change
// repeated: a page whose acceptance is lost would be sent twice. A manager that is being stopped finishes this first.
func (j *Journal) SaveOutcome(ctx context.Context, change func(*v1alpha1.Incident)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Settle)
	defer cancel()
	for {
		change(j.Incident)
		err := j.Save(ctx)
		if !apierrors.IsConflict(err) {
			return err
		}
		fresh := &v1alpha1.Incident{}
		if err := j.APIReader.Get(ctx, client.ObjectKeyFromObject(j.Incident), fresh); err != nil {
			return fmt.Errorf("reading the incident again: %w", err)
		}
		if fresh.UID != j.Incident.UID {
			return err
		}
		fresh.DeepCopyInto(j.Incident)
		j.Reread()
	}
}

// PlatformKey is the key of the Platform that the Incident names.
func (j *Journal) PlatformKey() client.ObjectKey {
	return client.ObjectKey{Namespace: j.Incident.Namespace, Name: j.Incident.Spec.PlatformRef.Name}
}

// ByHand says that a person closed the Incident: nothing more is begun for it.
func (j *Journal) ByHand() bool { return j.Incident.Spec.Resolution != nil }

// ByAlert says that no person opened the Incident. Whatever opens one by itself writes down what it saw.
func (j *Journal) ByAlert() bool {
	return j.Incident.Annotations[v1alpha1.AnnotationSeenBy] != "" ||
		j.Incident.Annotations[v1alpha1.AnnotationSeenSeverity] != ""
}

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents,verbs=list

// OpenOutage is the name of an open Outage of the Platform, past the cache; empty where there is none.
func (j *Journal) OpenOutage(ctx context.Context) (string, error) {
	var all v1alpha1.IncidentList
	if err := j.APIReader.List(ctx, &all, client.InNamespace(j.Incident.Namespace)); err != nil {
		return "", fmt.Errorf("looking for an open Outage: %w", err)
	}
	for _, i := range all.Items {
		if i.Spec.Category == v1alpha1.CategoryOutage && i.Spec.PlatformRef == j.Incident.Spec.PlatformRef &&
			!claims.Ended(&i) && i.DeletionTimestamp.IsZero() {
			return i.Name, nil
		}
	}
	return "", nil
}

// MayAct says whether the platform may be changed now. Otherwise it returns what the step waits for.
func (j *Journal) MayAct() (playbook.Outcome, bool) {
	if j.Platform.Spec.Automation == v1alpha1.AutomationObserveOnly {
		return playbook.Wait(0, v1alpha1.ReasonAutomationOff,
			"Platform %q is ObserveOnly: nothing is changed until its spec.automation is Enabled", j.Platform.Name), false
	}
	return playbook.Outcome{}, true
}

// StatusLost says that the Incident had begun and lost its status: nobody knows what it did.
func (j *Journal) StatusLost() bool {
	return meta.IsStatusConditionTrue(j.Incident.Status.Conditions, v1alpha1.ConditionStatusLost)
}

// ResumeCommand is what to type to let a stalled Incident go on.
func (j *Journal) ResumeCommand() string { return playbook.ResumeCommand(j.Incident, "incident") }

// ResolveCommand is what to type to close the Incident by hand.
func (j *Journal) ResolveCommand() string {
	return fmt.Sprintf(`kubectl -n %s patch incident %s --type=merge -p '{"spec":{"resolution":{"by":"YOUR-NAME"}}}'`,
		j.Incident.Namespace, j.Incident.Name)
}

// AcknowledgeCommand is what to type to take the Incident on at its present severity.
func (j *Journal) AcknowledgeCommand() string {
	return fmt.Sprintf(`kubectl -n %s patch incident %s --type=merge -p `+
		`'{"spec":{"acknowledgement":{"by":"YOUR-NAME","severity":"%s"}}}'`,
		j.Incident.Namespace, j.Incident.Name, j.Incident.Status.Severity)
}

// limitedRetry is how soon a far side is asked again that wants fewer requests, and does not say when.
const limitedRetry = 30 * time.Second

// Patient waits where a far side wants to be left alone, and leaves any other error to be one.
func Patient(who string, err error) (playbook.Outcome, error) {
	limited := (*outbound.Limited)(nil)
	if !errors.As(err, &limited) {
		return playbook.Outcome{}, err
	}
	return playbook.Wait(cmp.Or(limited.After, limitedRetry), v1alpha1.ReasonRetrying, "%s wants fewer requests", who), nil
}
