package claims

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// maxSuspects is the maximum of status.suspects.
const maxSuspects = 100

// RollbackOf is the last rollback of a service, or nil if there was none.
func RollbackOf(p *v1alpha1.PlatformStatus, service string) *v1alpha1.ServiceRollback {
	i := slices.IndexFunc(p.Rollbacks, func(r v1alpha1.ServiceRollback) bool { return r.Service == service })
	if i < 0 {
		return nil
	}
	return &p.Rollbacks[i]
}

// Suspect records a commit as unfit to go back to, unless it is recorded already. If there are too many, the oldest is
// dropped.
func Suspect(p *v1alpha1.PlatformStatus, service, commit, incident string, at *metav1.Time) {
	if slices.ContainsFunc(p.Suspects, func(s v1alpha1.SuspectCommit) bool {
		return s.Service == service &&
			s.Commit == commit
	}) {
		return
	}
	p.Suspects = append(p.Suspects, v1alpha1.SuspectCommit{Service: service, Commit: commit, Incident: incident, At: at})
	if len(p.Suspects) > maxSuspects {
		p.Suspects = slices.Delete(p.Suspects, 0, len(p.Suspects)-maxSuspects)
	}
}
