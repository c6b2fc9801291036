package incident_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// Of two Outages one acts. The other pages, names the first, and takes over when that ends.
func TestOfTwoOutagesOneActsAndTheOtherTakesOver(t *testing.T) {
	s := newScene(t, "rollback-two")
	first := s.regression("first", "{category: Outage, outage: {rollback: Never}, notice: Publish}")
	second := s.open("second", "{category: Outage, notice: Publish}")
	s.pass(first)
	s.pass(second)
	s.after(time.Minute, second)
	s.untouched("bad")
	s.expectPages("oncall 1 triggered", "oncall 1 triggered")
	s.expect(second, "RolledBack Unknown WaitingForOther", "Announced Unknown NotAnnounced")
	for _, condition := range []string{"RolledBack", "Announced"} {
		if got := s.message(second, condition); !strings.Contains(got, "Incident "+first+" of the same category is open") {
			t.Errorf("%s says %q", condition, got)
		}
	}
	if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "investigating" {
		t.Errorf("the public was told %+v", got)
	}
	s.patch(first, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(first)
	s.expect(first, "Ready True Succeeded")
	s.until(second, "RolledBack True Succeeded")
	s.rollbacks(1)
	if got := s.live(); got != "good" {
		t.Errorf("%s is live", got)
	}
	s.expectPages("oncall 1 resolved", "oncall 1 triggered")
}

// The Platform's status is lost in the middle of a rollback. Nothing is asked for twice, and auto-deploy comes back in
// the end.
func TestAPlatformThatIsAppliedAgainDuringARollbackRepeatsNothing(t *testing.T) {
	for name, state := range map[string]v1alpha1.RollbackState{
		"deploying": v1alpha1.RollbackDeploying, "answer-lost": v1alpha1.RollbackRequested,
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "rollback-again-"+name)
			r := s.Server.Render()
			r.SetRollbackDelay(3 * time.Second)
			if state == v1alpha1.RollbackRequested {
				r.SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", AfterEffect: true, Refuse: true, Times: 1})
			}
			inc := s.regression("inc", "{category: Outage}")
			s.pass(inc)
			s.expect(inc, "RolledBack Unknown RollingBack")
			if got := s.platform().Status.Rollbacks; len(got) != 1 || got[0].State != state {
				t.Fatalf("the Platform says of rollbacks: %+v", got)
			}
			s.deletePlatform()
			s.applyPlatform("")
			// Another Incident knows only the new Platform.
			other := s.open("other", "{category: Outage}")
			s.pass(other)
			s.until(inc, "RolledBack True Succeeded")
			s.pass(other)
			s.rollbacks(1)
			s.good()
			s.after(301*time.Second, inc)
			s.pass(other)
			s.expect(inc, "Resolved True Succeeded", "AutoDeployRestored Unknown AwaitingFix")
			r.DeployCommit(logi.WebService, "fix")
			s.after(301*time.Second, inc)
			s.pass(other)
			s.expect(inc, "AutoDeployRestored True Succeeded", "Ready True Succeeded")
			if got := r.Counts(); got.Rollbacks != 1 || got.AutoDeployPatches != 2 || !r.AutoDeploy(logi.WebService) {
				t.Errorf("Render was told %+v; auto-deploy is on: %t", got, r.AutoDeploy(logi.WebService))
			}
		})
	}
}

// A target that is certainly gone makes the next older deploy the target: by itself, or as a new pair to approve.
func TestATargetThatIsGoneMakesTheNextOlderOneTheTarget(t *testing.T) {
	for _, status := range []int{404, 410} {
		for _, policy := range []v1alpha1.RollbackPolicy{v1alpha1.RollbackAutomatic, v1alpha1.RollbackApproval} {
			t.Run(fmt.Sprintf("%d/%s", status, policy), func(t *testing.T) {
				s := newScene(t, strings.ToLower(fmt.Sprintf("rollback-gone-%d-%s", status, policy)))
				r := s.Server.Render()
				gone := r.AddDeploy(logi.WebService, "gone", "live", "new_commit", time.Now().Add(-5*time.Hour))
				r.SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", Status: status,
					Body: `{"message":"no such image"}`, Times: 1})
				name := s.regression("inc", fmt.Sprintf("{category: Outage, outage: {rollback: %s}}", policy))
				s.pass(name)
				if policy == v1alpha1.RollbackApproval {
					first := s.get(name).Status.Rollback
					s.approve(name)
					s.pass(name)
					s.expect(name, "RolledBack Unknown WaitingForApproval")
					second := s.get(name).Status.Rollback
					if first.To != gone || second.ToCommit != "good" || second.Digest == first.Digest {
						t.Errorf("first it offers %+v, then %+v", first, second)
					}
					s.rollbacks(0)
					s.approve(name)
				}
				s.until(name, "RolledBack True Succeeded")
				s.rollbacks(1)
				if got := s.live(); got != "good" {
					t.Errorf("%s is live", got)
				}
				if !s.warned(name, v1alpha1.ReasonRefused, gone) || !s.told(name, "Render refused to roll web back to "+gone) {
					t.Errorf("nobody is told that %s was refused: %q", gone, s.events)
				}
			})
		}
	}
}

// Where the account is refused, no other target helps: a person is asked to mend the key.
func TestAnAccountThatRenderRefusesStallsTheRollback(t *testing.T) {
	for _, status := range []int{401, 403} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s := newScene(t, fmt.Sprintf("rollback-account-%d", status))
			r := s.Server.Render()
			r.AddDeploy(logi.WebService, "newer", "live", "new_commit", time.Now().Add(-5*time.Hour))
			r.SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", Status: status, Body: `{"message":"no"}`})
			name := s.regression("inc", "{category: Outage}")
			s.pass(name)
			s.after(time.Hour, name)
			s.rollbacks(0)
			s.expect(name, "RolledBack False Refused", "Stalled True Refused")
			if got := s.get(name).Status.Rollback; got.ToCommit != "newer" || len(got.Refused) != 0 {
				t.Errorf("it went on to %+v", got)
			}
			if !s.warned(name, v1alpha1.ReasonRefused) {
				t.Errorf("no event says so: %q", s.events)
			}
			r.SetFaults()
			s.patch(name, `{"metadata":{"annotations":{"playbook.1pass.dev/requestedAt":"mended"}}}`)
			s.until(name, "RolledBack True Succeeded")
			s.rollbacks(1)
			if got := s.live(); got != "newer" {
				t.Errorf("%s is live", got)
			}
		})
	}
}

// An approval is for what is live now: a deploy in between makes it void.
func TestAnApprovalOfAnotherPairIsNotUsed(t *testing.T) {
	s := newScene(t, "rollback-void")
	r := s.Server.Render()
	name := s.regression("inc", "{category: Outage, outage: {rollback: Approval}}")
	s.pass(name)
	s.expect(name, "RolledBack Unknown WaitingForApproval")
	digest := s.get(name).Status.Rollback.Digest
	r.BreakCommit("bad-too", logi.Breakage{})
	// The commit is older than the onset: one that was made after it may be the fix.
	r.AddDeploy(logi.WebService, "bad-too", "build_failed", "new_commit", time.Now().Add(-time.Hour))
	r.Push(logi.WebService, "bad-too")
	s.offset += 10 * time.Second
	s.signals.Each[0].EnoughFrom = s.clock()
	s.approve(name)
	s.pass(name)
	s.untouched("bad-too")
	s.expect(name, "RolledBack Unknown WaitingForApproval")
	if got := s.get(name).Status.Rollback; got.Digest == digest || got.FromCommit != "bad-too" {
		t.Errorf("it offers %+v", got)
	}
	if got := s.message(name, "RolledBack"); !strings.Contains(got, "The approval given is for another pair.") {
		t.Errorf("it says %q", got)
	}
	s.approve(name)
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
	if got := s.live(); got != "good" {
		t.Errorf("%s is live", got)
	}
}

// A newer commit that is not gone back to is named, with the reason, also where nobody has to approve the rollback.
func TestARollbackNamesTheCommitsThatItSkipped(t *testing.T) {
	s := newScene(t, "rollback-skipped")
	s.Server.Render().AddDeploy(logi.WebService, "worse", "live", "new_commit", time.Now().Add(-5*time.Hour))
	p := s.platform()
	p.Status.Suspects = []v1alpha1.SuspectCommit{{Service: "web", Commit: "worse", Incident: "earlier",
		At: new(metav1.NewTime(time.Now().Truncate(time.Second)))}}
	if err := admin.Status().Update(s.ctx, p); err != nil {
		t.Fatal(err)
	}
	name := s.regression("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
	const why = "skipped worse: suspected by Incident earlier"
	if got := s.message(name, "RolledBack"); !strings.Contains(got, why) || !s.told(name, why) || s.live() != "good" {
		t.Errorf("%s is live, RolledBack says %q, and the timeline is %+v", s.live(), got, s.get(name).Status.Timeline)
	}
}
