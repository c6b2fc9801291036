package incident_test

import (
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// Of two that rolled back the last one puts auto-deploy back, and the other names it. A Platform that was applied again
// in between changes nothing about that.
func TestOfTwoThatRolledBackTheLastOneRestores(t *testing.T) {
	for _, again := range []string{"kept", "applied-again"} {
		t.Run(again, func(t *testing.T) {
			s := newScene(t, "autodeploy-two-"+again)
			r := s.Server.Render()
			first := s.regression("first", "{category: Outage}")
			s.until(first, "RolledBack True Succeeded")
			s.good()
			s.after(301*time.Second, first)
			s.expect(first, "AutoDeployRestored Unknown AwaitingFix")
			// What was meant as the fix breaks it again, an hour later.
			s.offset += time.Hour
			r.BreakCommit("worse", logi.Breakage{})
			r.AddDeploy(logi.WebService, "worse", "live", "manual", s.clock())
			s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
			s.pass(first)
			second := s.open("second", "{category: Outage}")
			s.until(second, "RolledBack True Succeeded")
			s.rollbacks(2)
			if again == "applied-again" {
				s.deletePlatform()
				s.applyPlatform("")
				s.pass(first) // it reminds the new Platform before the second one does
			}
			s.good()
			s.after(301*time.Second, second)
			s.expect(second, "Resolved True Succeeded", "AutoDeployRestored Unknown AwaitingFix")
			s.pass(first)
			s.expect(first, "AutoDeployRestored False NotNeeded", "Ready True Succeeded")
			if got := s.message(first, "AutoDeployRestored"); !strings.Contains(got,
				"Incident "+second+" rolled web back since") {
				t.Errorf("it says %q", got)
			}
			if r.AutoDeploy(logi.WebService) {
				t.Error("auto-deploy is on, without a fix")
			}
			r.AddDeploy(logi.WebService, "fix", "live", "manual", s.clock())
			s.after(301*time.Second, second)
			s.expect(second, "AutoDeployRestored True Succeeded", "Ready True Succeeded")
			if got := r.Counts(); got.AutoDeployPatches != 2 || !r.AutoDeploy(logi.WebService) {
				t.Errorf("Render was told %+v; auto-deploy is on: %t", got, r.AutoDeploy(logi.WebService))
			}
		})
	}
}

// A person switches it on at Render. The Incident takes that over, and has nothing more to wait for.
func TestAutoDeployThatAPersonSwitchesOnIsNotAwaited(t *testing.T) {
	s := newScene(t, "autodeploy-by-hand")
	r := s.Server.Render()
	name := s.regression("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	s.good()
	s.after(301*time.Second, name)
	s.expect(name, "AutoDeployRestored Unknown AwaitingFix")
	api := render.New(s.URL()+logi.RenderPath, r.Key(), nil)
	if err := api.SetAutoDeploy(s.ctx, logi.WebService, true); err != nil {
		t.Fatal(err)
	}
	s.after(10*time.Second, name)
	s.expect(name, "AutoDeployRestored True Succeeded", "Ready True Succeeded")
	if got := s.message(name, "AutoDeployRestored"); !strings.Contains(got, "somebody switched it on at Render") {
		t.Errorf("it says %q", got)
	}
	if got := s.platform().Status.Rollbacks[0].AutoDeploy; got != v1alpha1.AutoDeployRestored {
		t.Errorf("the Platform says %s", got)
	}
	if got := r.Counts(); got.AutoDeployPatches != 2 {
		t.Errorf("Render was told %+v", got)
	}
}

// Only signals that stay good for clearSeconds after the fix went live bring auto-deploy back.
func TestOnlyAClearAfterTheFixBringsAutoDeployBack(t *testing.T) {
	s := newScene(t, "autodeploy-clear")
	r := s.Server.Render()
	off := func(when string) {
		t.Helper()
		s.expect(s.Name+"-inc", "AutoDeployRestored Unknown AwaitingFix")
		if got := r.Counts().AutoDeployPatches; got != 1 || r.AutoDeploy(logi.WebService) {
			t.Errorf("%s auto-deploy is on: %d times it was set", when, got)
		}
	}
	name := s.regression("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	s.good()
	s.after(301*time.Second, name)
	if got := s.message(name, "Ready"); !strings.Contains(got, "patch incident "+name) ||
		!strings.Contains(got, "auto-deploy of web") {
		t.Errorf("the row is %q", got)
	}
	s.after(24*time.Hour, name)
	off("without a fix")
	// An older commit by hand is no fix: the next push may bring the bad one back.
	r.AddDeploy(logi.WebService, "good", "live", "manual", s.clock())
	s.after(301*time.Second, name)
	off("with an older commit")
	r.AddDeploy(logi.WebService, "fix", "live", "manual", s.clock())
	s.after(299*time.Second, name)
	off("299 s after the fix")
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	s.after(10*time.Minute, name)
	off("with a bad signal")
	s.sees()
	s.after(10*time.Minute, name)
	off("with signals that are unknown")
	s.good()
	s.after(299*time.Second, name)
	off("299 s after the last bad signal")
	s.after(2*time.Second, name)
	s.expect(name, "AutoDeployRestored True Succeeded", "Ready True Succeeded")
	if got := r.Counts().AutoDeployPatches; got != 2 || !r.AutoDeploy(logi.WebService) {
		t.Errorf("auto-deploy is off: %d times it was set", got)
	}
	if got := s.live(); got != "fix" {
		t.Errorf("%s is live", got)
	}
}
