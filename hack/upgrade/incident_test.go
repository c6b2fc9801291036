package upgrade_test

import (
	"cmp"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// each runs a test for every state of every journal of a kind.
func each(t *testing.T, kind string, finish func(*scene, *state)) {
	paths, err := filepath.Glob(filepath.Join("testdata", kind, "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no states of %s were captured: %v", kind, err)
	}
	n := 0
	for _, path := range paths {
		j, err := readJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		for i, plain := range j {
			n++
			nth := name + "-" + number(i)
			t.Run(nth, func(t *testing.T) {
				t.Parallel()
				s, stored := load(t, "upgraded-"+nth, plain)
				s.letsGoOfWhatIsFinished()
				finish(s, stored)
			})
		}
	}
	t.Logf("%d states of %s", n, kind)
}

// letsGoOfWhatIsFinished checks that an object that was finished loses its finalizer, and nothing else.
func (s *scene) letsGoOfWhatIsFinished() {
	s.Helper()
	if !strings.HasPrefix(s.condition(v1alpha1.ConditionReady), "True ") {
		return
	}
	before, after := s.empty(), s.empty()
	if err := s.get(s.ctx, before); err != nil {
		s.Fatal(err)
	}
	s.rest()
	if err := s.get(s.ctx, after); err != nil {
		s.Fatal(err)
	}
	if got := after.GetFinalizers(); len(got) > 0 {
		s.Errorf("it was finished, and has the finalizers %v", got)
	}
	for _, obj := range []*unstructured.Unstructured{before, after} {
		for _, field := range [][]string{{"metadata", "finalizers"}, {"metadata", "resourceVersion"},
			{"metadata", "managedFields"}, {"status", "observedGeneration"}} {
			unstructured.RemoveNestedField(obj.Object, field...)
		}
	}
	if !reflect.DeepEqual(before.Object, after.Object) {
		s.Errorf("it was finished, and was changed from %v to %v", before.Object, after.Object)
	}
}

const resolution = `{"spec":{"resolution":{"by":"dana","summary":"rolled back by hand"}}}`

// after lets time pass, and then managers look.
func (s *scene) after(d time.Duration) {
	s.Helper()
	s.offset += d
	s.rest()
}

// arrive ends the rollback that Render began, in a status.
func (s *scene) arrive(status string) {
	for _, d := range s.Render().Saved(logi.WebService).Deploys {
		if d.Status == "update_in_progress" {
			s.Render().SetDeployStatus(logi.WebService, d.ID, status)
		}
	}
}

// told counts what people were told: the triggers of alerts, and all requests that reached the services that tell them.
func (s *scene) told() (triggers, requests int) {
	for _, p := range s.Services.Pages() {
		triggers += p.Triggers
	}
	for _, service := range []string{logi.PagerDuty, logi.Slack, logi.Statuspage} {
		requests += s.Services.Requests(service)
	}
	return triggers, requests
}

func TestIncidentsOfThePreviousReleaseAreFinished(t *testing.T) { each(t, "incident", finishIncident) }

// finishIncident lets this release go on with an Incident: first nothing changes, then time passes, then the platform
// is well again, and in the end a person closes it. Nobody approves anything.
func finishIncident(s *scene, stored *state) {
	was := &v1alpha1.Incident{}
	if err := s.get(s.ctx, was); err != nil {
		s.Fatal(err)
	}
	triggers, requests := s.told()
	s.rest()
	s.after(6 * time.Second)
	s.lostNoPage(was)
	s.arrive("live")
	s.after(31 * time.Second)
	s.after(10 * time.Minute)
	s.become("")
	s.after(time.Second)
	s.after(301 * time.Second)
	s.patch(resolution)
	s.rest()
	s.after(time.Minute)

	s.rolledBackAtMost(was, stored)
	s.isOver(was)
	nowTriggers, nowRequests := s.told()
	if was.Status.AcknowledgedAt != nil && nowTriggers > triggers {
		s.Errorf("somebody had taken it on, and people were paged %d times more", nowTriggers-triggers)
	}
	if isTrue(was.Status.Conditions, v1alpha1.ConditionReady) && nowRequests > requests {
		s.Errorf("it was finished, and people were told something %d times more", nowRequests-requests)
	}
}

// lostNoPage checks that a page that was being sent, or was due, has arrived.
func (s *scene) lostNoPage(was *v1alpha1.Incident) {
	s.Helper()
	if was.Spec.Acknowledgement != nil || was.Spec.Resolution != nil || was.Status.ResolvedAt != nil {
		return
	}
	severity := was.Status.Severity
	if severity == "" && was.Spec.Category == v1alpha1.CategoryOutage {
		severity = cmp.Or(was.Spec.Severity, v1alpha1.Sev2) // it had not begun; an outage is no less
	}
	if (severity == v1alpha1.Sev1 || severity == v1alpha1.Sev2) && len(s.Services.Pages())+len(s.Services.Chats()) == 0 {
		s.Error("nobody was paged")
	}
}

// rolledBackAtMost checks that nothing was rolled back twice, nor anything that must not be.
func (s *scene) rolledBackAtMost(was *v1alpha1.Incident, stored *state) {
	s.Helper()
	asked := s.Render().Counts().Rollbacks
	if stored.Asked+asked > 1 {
		s.Errorf("Render was asked to roll back %d times", stored.Asked+asked)
	}
	old := stored.Object["spec"].(map[string]any)
	policy, _ := old["rollback"].(string)
	approved := len(was.Spec.Approvals) > 0
	switch {
	case asked == 0:
	case was.Spec.Category != v1alpha1.CategoryOutage:
		s.Errorf("an Incident of category %s began a rollback", was.Spec.Category)
	case policy == "Never", policy == "Approval" && !approved:
		s.Errorf("a rollback was begun, and spec.rollback was %s", policy)
	case was.Spec.Resolution != nil || was.Status.ResolvedAt != nil:
		s.Error("a rollback was begun for an Incident that was over")
	}
}

// isOver checks that nothing is left of an Incident: not a page, not a notice, not a claim, not auto-deploy that is
// off.
func (s *scene) isOver(was *v1alpha1.Incident) {
	s.Helper()
	if !s.Render().AutoDeploy(logi.WebService) {
		s.Error("auto-deploy is off")
	}
	for _, p := range s.Services.Pages() {
		if p.State != "resolved" {
			s.Errorf("the alert %s is %s", p.DedupKey, p.State)
		}
	}
	for _, n := range s.Services.Notices() {
		if n.Status != "resolved" {
			s.Errorf("the public reads %s", n.Status)
		}
	}
	if n := len(s.Services.Notices()); n > 1 {
		s.Errorf("the public was told of it by %d notices", n)
	}
	s.settled(was.Status.Conditions)
	if obj := s.empty(); s.get(s.ctx, obj) != nil || len(obj.GetFinalizers()) > 0 {
		s.Errorf("it is over, and has the finalizers %v", obj.GetFinalizers())
	}
	p := &unstructured.Unstructured{}
	p.SetAPIVersion(v1alpha1.GroupVersion.String())
	p.SetKind("Platform")
	if err := admin.Get(s.ctx, s.platform(), p); err != nil {
		s.Fatal(err)
	}
	if _, held, _ := unstructured.NestedMap(p.Object, "status", "notice"); held {
		s.Error("the Platform's notice is still held")
	}
	rollbacks, _, _ := unstructured.NestedSlice(p.Object, "status", "rollbacks")
	for _, r := range rollbacks {
		if r.(map[string]any)["autoDeploy"] == "Off" {
			s.Errorf("the Platform says %v", r)
		}
	}
}

func isTrue(conditions []metav1.Condition, name string) bool {
	for _, c := range conditions {
		if c.Type == name {
			return c.Status == metav1.ConditionTrue
		}
	}
	return false
}

// settled checks that the object is complete, and that each step that it began with is there and settled.
func (s *scene) settled(began []metav1.Condition) {
	s.Helper()
	if got := s.condition(v1alpha1.ConditionReady); !strings.HasPrefix(got, "True ") {
		s.Errorf("Ready is %s", got)
	}
	for _, c := range began {
		switch c.Type {
		case v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled,
			v1alpha1.ConditionResponseOverdue:
			continue
		}
		if got := s.condition(c.Type); !strings.HasPrefix(got, "True ") && got != "False "+v1alpha1.ReasonNotNeeded {
			s.Errorf("the step %s is %s in the end", c.Type, got)
		}
	}
}
