package rollback

import (
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

func TestAFixIsANewCommitWithWhichTheSignalsStayedGood(t *testing.T) {
	fix := &render.Deploy{ID: "dep-fix", Commit: "fix", FinishedAt: night.Add(-10 * time.Minute)}
	for name, c := range map[string]struct {
		fix    *render.Deploy
		clear  time.Time
		probed bool
		waits  string // empty: auto-deploy is put back
	}{
		"none":                           {clear: night.Add(-time.Hour), probed: true, waits: "Deploy its fix by hand"},
		"with signals that are not good": {fix: fix, probed: true, waits: "stays off until the signals are good"},
		"with signals good for too short": {fix: fix, clear: night.Add(-time.Minute), probed: true,
			waits: "is switched on again at 2026-11-27T03:04:00Z"},
		"with signals good since it is up": {fix: fix, clear: night.Add(-time.Hour), probed: true},
		"that is live for too short a time": {fix: &render.Deploy{ID: "dep-fix", Commit: "fix",
			FinishedAt: night.Add(-time.Minute)}, clear: night.Add(-time.Hour), probed: true, waits: "is switched on again " +
			"at 2026-11-27T03:04:00Z"},
	} {
		r := suspected()
		r.Platform.Spec.Probes = &v1alpha1.PlatformProbes{ClearSeconds: 300}
		r.Evidence.ClearSince = c.clear
		ours := new(of("ours", v1alpha1.RollbackLive, time.Hour))
		why, waits, after := r.restorable(ours, c.fix)
		if (why == "") != (c.waits != "") || (after > 0) != (c.waits != "") || !strings.Contains(waits, c.waits) {
			t.Errorf("%s: it is put back for %q, or waits %s and says %q", name, why, after, waits)
		}
	}
}
