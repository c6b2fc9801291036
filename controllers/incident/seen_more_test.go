package incident_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// 7. Webhooks that two relying parties refused rolled the platform back, and closed as "the signals stayed good" with
// both still down.
func TestWebhooksThatNobodyTakesRollNothingBackAndCloseNothing(t *testing.T) {
	s := newScene(t, "seen-webhooks")
	s.Server.Render().AddDeploy(logi.WebService, "healthy", "live", "new_commit", time.Now().Add(-90*time.Second))
	up := s.signal(v1alpha1.ConditionUpAnswers, metav1.ConditionTrue, "")
	s.sees(up, s.signal(v1alpha1.ConditionWebhooksDelivered, metav1.ConditionFalse, v1alpha1.Sev2))
	name := s.open("inc", "{category: WebhookDelivery}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	if obj := s.get(name); obj.Status.Severity != v1alpha1.Sev2 ||
		obj.Status.ConfirmedBy != v1alpha1.ConditionWebhooksDelivered {
		t.Errorf("it is %s, confirmed by %q", obj.Status.Severity, obj.Status.ConfirmedBy)
	}
	// No attempt in the window, and then, as after a single one that arrived, good.
	for _, state := range []metav1.ConditionStatus{metav1.ConditionUnknown, metav1.ConditionTrue} {
		s.sees(up, s.signal(v1alpha1.ConditionWebhooksDelivered, state, v1alpha1.Sev2))
		s.pass(name)
		s.after(time.Hour, name)
		s.expect(name, "Resolved Unknown AwaitingResolution", "RolledBack none", "Mitigated none")
		s.expectPages("oncall 1 triggered")
	}
	s.untouched("healthy")
	s.patch(name, `{"spec":{"resolution":{"by":"dana","summary":"replayed"}}}`)
	s.pass(name)
	s.expect(name, "Ready True Succeeded")
	s.expectPages("oncall 1 resolved")
}

// 8. Render refused the rollback of one Incident, and another one took it for done.
func TestARefusedRollbackIsTakenForDoneByNobody(t *testing.T) {
	s := newScene(t, "seen-refused")
	s.Server.Render().SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", Status: 403,
		Body: `{"message":"forbidden"}`})
	first := s.regression("first", "{category: Outage}")
	second := s.open("second", "{category: Outage}")
	s.pass(first)
	s.pass(second)
	s.expect(first, "RolledBack False Refused", "Stalled True Refused")
	s.expect(second, "RolledBack Unknown WaitingForOther")
	s.expectPages("oncall 1 triggered", "oncall 1 triggered")
	s.rollbacks(0)
	s.Server.Render().SetFaults()
	s.patch(first, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(first)
	s.expect(first, "Ready True Succeeded")
	s.until(second, "RolledBack True Succeeded")
	s.rollbacks(1)
	if got := s.live(); got != "good" || s.Server.Render().AutoDeploy(logi.WebService) {
		t.Errorf("%s is live, and auto-deploy is on: %t", got, s.Server.Render().AutoDeploy(logi.WebService))
	}
}

// deletePlatform deletes the Platform. It is applied again by applyPlatform.
func (s *scene) deletePlatform() {
	s.Helper()
	if err := admin.Delete(s.ctx, s.platform()); err != nil {
		s.Fatal(err)
	}
}

// 9. A Platform that was deleted and applied again while the fix was awaited forgot that auto-deploy was off.
func TestAPlatformThatIsAppliedAgainWhileTheFixIsAwaitedForgetsNothing(t *testing.T) {
	s := newScene(t, "seen-again")
	r := s.Server.Render()
	name := s.regression("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	s.good()
	s.after(301*time.Second, name)
	s.expect(name, "Resolved True Succeeded", "AutoDeployRestored Unknown AwaitingFix")
	s.deletePlatform()
	if err := s.tryPass(name); err == nil {
		t.Error("without its Platform a pass does not fail")
	}
	s.applyPlatform("")
	s.pass(name)
	s.expect(name, "AutoDeployRestored Unknown AwaitingFix", "Ready False AwaitingFix")
	if r.AutoDeploy(logi.WebService) {
		t.Error("auto-deploy is on, without a fix")
	}
	if got := s.platform().Status.Rollbacks; len(got) != 1 || got[0].Incident != name ||
		got[0].AutoDeploy != v1alpha1.AutoDeployOff {
		t.Errorf("the Platform says of rollbacks: %+v", got)
	}
	r.DeployCommit(logi.WebService, "fix")
	s.after(301*time.Second, name)
	s.expect(name, "AutoDeployRestored True Succeeded", "Ready True Succeeded")
	if got := r.Counts(); got.Rollbacks != 1 || got.AutoDeployPatches != 2 || !r.AutoDeploy(logi.WebService) {
		t.Errorf("Render was told %+v; auto-deploy is on: %t", got, r.AutoDeploy(logi.WebService))
	}
}

// 11. A second bad deploy within the hour was not rolled back, and nobody was told: it must offer the exact pair.
func TestASecondBadDeployWithinTheHourOffersTheExactPair(t *testing.T) {
	for _, policy := range []v1alpha1.RollbackPolicy{v1alpha1.RollbackAutomatic, v1alpha1.RollbackApproval} {
		t.Run(string(policy), func(t *testing.T) {
			s := newScene(t, "seen-second-"+strings.ToLower(string(policy)))
			r := s.Server.Render()
			first := s.regression("first", "{category: Outage}")
			s.until(first, "RolledBack True Succeeded")
			s.good()
			s.after(301*time.Second, first)
			r.DeployCommit(logi.WebService, "fix")
			s.after(time.Second, first)
			s.expect(first, "AutoDeployRestored True Succeeded", "Ready True Succeeded")

			r.BreakCommit("worse", logi.Breakage{})
			worse := r.Push(logi.WebService, "worse")
			s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
			name := s.open("second", fmt.Sprintf("{category: Outage, outage: {rollback: %s}}", policy))
			s.pass(name)
			s.after(time.Minute, name)
			s.rollbacks(1)
			s.expect(name, "RolledBack Unknown WaitingForApproval", "Ready False WaitingForApproval")
			plan := s.get(name).Status.Rollback
			if plan.From != worse || plan.FromCommit != "worse" || plan.ToCommit != "fix" {
				t.Fatalf("it offers %+v", plan)
			}
			pair := fmt.Sprintf("rolling web back from %s (worse) to %s (fix)", plan.From, plan.To)
			if !s.warned(name, v1alpha1.ReasonWaitingForApproval, pair, first, "once an hour") {
				t.Errorf("no event offers %q: %q", pair, s.events)
			}
			if !s.told(name, pair) {
				t.Errorf("the timeline does not offer %q: %+v", pair, s.get(name).Status.Timeline)
			}
			if row := s.row(name); !strings.Contains(row, "WaitingForApproval") || !strings.Contains(row, pair) ||
				!strings.Contains(row, plan.Digest) {
				t.Errorf("the row is %s", row)
			}
			s.approve(name)
			s.until(name, "RolledBack True Succeeded")
			s.rollbacks(2)
			if got := s.live(); got != "fix" {
				t.Errorf("%s is live", got)
			}
		})
	}
}

// steps of an object's playbook, by its category, and how many each lane of more than one has.
var stepsOf = map[v1alpha1.IncidentCategory][]string{
	v1alpha1.CategoryOutage: {
		"Classified", "Escalated", "Acknowledged", "Announced", "Triaged", "RolledBack", "Mitigated", "Resolved",
		"AutoDeployRestored",
	},
	v1alpha1.CategoryMergeInconsistency: {"Classified", "Escalated", "Acknowledged", "Triaged", "Resolved"},
}

// 12. An object that was begun before a step existed made the lanes panic, and counted the step that it does not have.
func TestAnObjectThatWasBegunBeforeAStepExistedIsFinishedWithoutIt(t *testing.T) {
	for category, steps := range stepsOf {
		for _, step := range steps {
			t.Run(string(category)+"/"+step, func(t *testing.T) {
				s := newScene(t, strings.ToLower("seen-"+string(category)[:4]+"-"+step))
				name := s.regression("inc", fmt.Sprintf("{category: %s, severity: sev1}", category))
				s.begun(name, slices.DeleteFunc(slices.Clone(steps), func(other string) bool { return other == step }))
				s.pass(name)
				s.uncounted(name, step)
				for range 3 {
					s.after(10*time.Second, name)
				}
				s.uncounted(name, step)
				want := 1
				if category != v1alpha1.CategoryOutage || step == "RolledBack" {
					want = 0
				}
				s.rollbacks(want)
				s.good()
				s.after(301*time.Second, name)
				s.uncounted(name, step)
				s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
				s.pass(name)
				s.uncounted(name, step)
				s.rollbacks(want)
				if step == "Resolved" {
					return // nothing can say that it is over, and no release began an object without it
				}
				s.expect(name, "Ready True Succeeded")
				if step == "Escalated" {
					s.expectPages()
				} else {
					s.expectPages("oncall 1 resolved")
				}
			})
		}
	}
}

// begun writes the status that an object has after its first visit by a release with these steps.
func (s *scene) begun(name string, steps []string) {
	s.Helper()
	obj := s.get(name)
	base := obj.DeepCopy()
	for condition, state := range map[string]metav1.ConditionStatus{"Ready": metav1.ConditionFalse,
		"Reconciling": metav1.ConditionTrue} {
		meta.SetStatusCondition(&obj.Status.Conditions, metav1.Condition{Type: condition, Status: state, Reason: "Pending",
			Message: "accepted"})
	}
	for _, step := range steps {
		meta.SetStatusCondition(&obj.Status.Conditions, metav1.Condition{
			Type: step, Status: metav1.ConditionUnknown, Reason: "Pending", Message: "waits for its turn",
		})
	}
	if err := admin.Status().Patch(s.ctx, obj, client.MergeFrom(base)); err != nil {
		s.Fatal(err)
	}
}

var counting = regexp.MustCompile(`step (\d+)/(\d+)`)

// uncounted fails where the object has a step that it was begun without, or counts it.
func (s *scene) uncounted(name, step string) {
	s.Helper()
	s.expect(name, step+" none")
	lanes := [][]string{{"Triaged", "RolledBack"}, {"Mitigated", "Resolved", "AutoDeployRestored"}}
	lengths := map[string]bool{}
	for _, lane := range lanes {
		n := len(lane)
		if slices.Contains(lane, step) {
			n--
		}
		lengths[fmt.Sprint(n)] = true
	}
	for _, c := range s.get(name).Status.Conditions {
		if found := counting.FindStringSubmatch(c.Message); found != nil && !lengths[found[2]] {
			s.Errorf("without %s, %s says %q", step, c.Type, c.Message)
		}
	}
}
