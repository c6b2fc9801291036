package main

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// undone is what an object has begun at the far sides and does not end, if it is let go now, by its status.
func undone(obj playbook.Object) []string {
	if playbook.Finished(obj) {
		return nil
	}
	switch obj := obj.(type) {
	case *v1alpha1.Incident:
		return append(undoneByIncident(&obj.Status), undoneByExposure(obj)...)
	case *v1alpha1.DLQReplay:
		return undoneByReplay(obj)
	case *v1alpha1.KeyCompromise:
		return undoneByCompromise(obj)
	}
	return nil
}

func undoneByIncident(status *v1alpha1.IncidentStatus) []string {
	var left []string
	if status.Escalation != nil {
		for _, page := range status.Escalation.Pages {
			if page.State != v1alpha1.PageResolved {
				left = append(left, fmt.Sprintf("%s was paged by %s at %s (%s), and is not told that it is over: resolve it there",
					page.Tier, page.Channel, page.Severity, page.State))
			}
		}
	}
	if notice := status.Notice; notice != nil && notice.Published != v1alpha1.NoticeResolved {
		switch {
		case notice.PageIncidentID != "":
			left = append(left, fmt.Sprintf("the public reads %q at the status page (%s, %s): resolve it there",
				notice.Title, notice.Published, notice.PageIncidentID))
		case notice.Published == "":
			left = append(left, fmt.Sprintf("the public may read %q at the status page: look there", notice.Title))
		}
	}
	if status.Rollback != nil && status.Rollback.Claim != nil {
		left = append(left, undoneByRollback(status.Rollback.Claim)...)
	}
	return left
}

// undoneByExposure is about a KeyExposure. A KeyCompromise that was seen says for itself what it leaves.
func undoneByExposure(obj *v1alpha1.Incident) []string {
	switch known, affected := obj.Status.KeyCompromise, obj.Spec.Affected; {
	case obj.Spec.Category != v1alpha1.CategoryKeyExposure || affected == nil || obj.Status.ResolvedAt != nil:
	case known == nil:
		return []string{fmt.Sprintf("kid %s is not ended by this Incident", affected.Kid)}
	case known.UID == "":
		return []string{fmt.Sprintf("KeyCompromise %s may have been made, to end kid %s: look for it", known.Name,
			affected.Kid)}
	}
	return nil
}

func undoneByRollback(rollback *v1alpha1.ServiceRollback) []string {
	var left []string
	switch rollback.State {
	case v1alpha1.RollbackRequested, v1alpha1.RollbackDeploying:
		left = append(left, fmt.Sprintf("the rollback of %s from %s to %s is under way, and nobody follows it: look at "+
			"Render",
			rollback.Service, rollback.FromCommit, rollback.ToCommit))
	}
	if rollback.AutoDeploy == v1alpha1.AutoDeployOff {
		left = append(left, fmt.Sprintf("auto-deploy of %s is off since %s, to keep %s from coming back: switch it on at "+
			"Render",
			rollback.Service, at(rollback.At), rollback.FromCommit))
	}
	return left
}

// undoneAt is what a Platform knows of Incidents that are gone. said has the UIDs of those that were told of.
func undoneAt(p *v1alpha1.Platform, said map[string]bool) []string {
	var left []string
	for _, told := range p.Status.Told {
		if told.State != v1alpha1.ToldOver {
			left = append(left, fmt.Sprintf("the on-call of application %s was told of %s by Incident %s (%s), and is not "+
				"told that it is over: tell them", told.ApplicationID, told.Cause, told.Incident, told.State))
		}
	}
	for i := range p.Status.Rollbacks {
		if rollback := &p.Status.Rollbacks[i]; !said[rollback.IncidentUID] {
			left = append(left, undoneByRollback(rollback)...)
		}
	}
	return left
}

func undoneByReplay(obj *v1alpha1.DLQReplay) []string {
	status := &obj.Status
	var left []string
	if status.Cutoff != nil {
		left = append(left, fmt.Sprintf("its operation %s is still open in the ledger; no entry is requeued by it any more",
			obj.UID))
	}
	if p := status.Progress; p != nil && p.Remaining != nil && *p.Remaining > 0 {
		left = append(left, playbook.Count(*p.Remaining, "of its entries was not looked at, and is still dead",
			"of its entries were not looked at, and are still dead"))
	}
	for _, retry := range status.AdminRetries {
		if retry.State == v1alpha1.AdminRetryIntended {
			left = append(left, fmt.Sprintf("the admin API may have been asked to retry entry %s: look at the entry",
				retry.EntryID))
		}
	}
	return left
}

func undoneByCompromise(obj *v1alpha1.KeyCompromise) []string {
	status := &obj.Status
	switch {
	case status.RevokedAt != nil && status.ExposedUntil != nil:
		return []string{fmt.Sprintf("kid %s is revoked, and a relying party may believe it until %s: nobody verifies that "+
			"it ends",
			obj.Spec.Kid, at(status.ExposedUntil))}
	case status.RevokedAt != nil:
		return []string{fmt.Sprintf("kid %s is revoked, and nobody verifies that no relying party believes it", obj.Spec.Kid)}
	case status.Command != nil && status.Command.Outcome == "":
		return []string{fmt.Sprintf("the platform's rake may be running, on %s. Look whether kid %s is revoked",
			status.Command.Target, obj.Spec.Kid)}
	}
	return []string{fmt.Sprintf("kid %s is not revoked, by what is known here", obj.Spec.Kid)}
}

func at(t *metav1.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
