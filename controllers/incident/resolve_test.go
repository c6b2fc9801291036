package incident_test

import (
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// A resolution during a rollback follows it to its end, also where the answer was lost.
func TestAResolutionDuringARollbackFollowsItToItsEnd(t *testing.T) {
	for name, lost := range map[string]bool{"answered": false, "answer-lost": true} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "resolve-"+name)
			r := s.Server.Render()
			r.SetRollbackDelay(5 * time.Second)
			if lost {
				r.SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", AfterEffect: true, Refuse: true, Times: 1})
			}
			inc := s.regression("inc", "{category: Outage}")
			s.pass(inc)
			s.expect(inc, "RolledBack Unknown RollingBack")
			s.patch(inc, `{"spec":{"resolution":{"by":"dana"}}}`)
			s.pass(inc)
			s.expectPages("oncall 1 resolved")
			s.expect(inc, "Resolved True Succeeded", "RolledBack Unknown RollingBack", "Ready False RollingBack")
			s.until(inc, "RolledBack True Succeeded")
			s.pass(inc)
			s.rollbacks(1)
			s.expect(inc, "AutoDeployRestored True Succeeded", "Ready True Succeeded")
			if got := s.live(); got != "good" || !r.AutoDeploy(logi.WebService) {
				t.Errorf("%s is live; auto-deploy is on: %t", got, r.AutoDeploy(logi.WebService))
			}
			if obj := s.get(inc); obj.Status.RolledBackAt == nil || len(obj.Finalizers) != 0 {
				t.Errorf("rolled back at %v; finalizers %v", obj.Status.RolledBackAt, obj.Finalizers)
			}
		})
	}
}

// A resolution before anything was asked for begins nothing.
func TestAResolutionBeforeARollbackBeginsNone(t *testing.T) {
	s := newScene(t, "resolve-before")
	name := s.regression("inc", "{category: Outage, outage: {rollback: Approval}}")
	s.pass(name)
	s.approve(name)
	s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(name)
	s.untouched("bad")
	s.expect(name, "RolledBack False NotNeeded", "AutoDeployRestored False NotNeeded", "Ready True Succeeded")
	s.expectPages("oncall 1 resolved")
}
