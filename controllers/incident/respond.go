package incident

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

const (
	// triageDeadline is how long triage waits for Render: what can't be read is then unknown.
	triageDeadline = time.Minute
	// responseTimeout bounds what the response does in a pass, so that the next page is not late.
	responseTimeout = 20 * time.Second
	// triagedDeploys is how many the playbook looks at.
	triagedDeploys = 5
	// unhelpful is how long at least after a rollback signals that are still bad say that it did not help.
	unhelpful = time.Minute
	// lookInterval is how often the signals are looked at in case that nothing told of a change.
	lookInterval = 30 * time.Second
)

// byHand says that a person closed the incident: nothing more is begun for it.
func (s *response) byHand() (playbook.Outcome, bool) {
	if r := s.obj.Spec.Resolution; r != nil {
		return playbook.NotNeeded("resolved by %s", r.By), true
	}
	return playbook.Outcome{}, false
}

// triage is the first look: health, what runs, and what was deployed.
func triage(ctx context.Context, s *response) (playbook.Outcome, error) {
	if outcome, ok := s.byHand(); ok {
		return outcome, nil
	}
	ctx, cancel := context.WithTimeout(ctx, responseTimeout)
	defer cancel()
	found := &v1alpha1.TriageStatus{Health: s.health()}
	s.obj.Status.Triage = found
	if s.platform.Spec.Render == nil {
		return playbook.Done("%s; Platform %q has no spec.render, so services and deploys are unknown", found.Health, s.platform.Name), nil
	}
	patience := s.now.Before(s.obj.CreationTimestamp.Add(triageDeadline))
	api, err := s.Connections.Render(ctx, s.platform)
	if err != nil {
		if patience {
			return playbook.Outcome{}, err
		}
		return playbook.Done("%s; services and deploys are unknown: %s", found.Health, playbook.Normalise(err.Error())), nil
	}
	for _, service := range s.platform.Spec.Render.Services {
		state := "Running"
		at, err := api.Service(ctx, service.ServiceID)
		switch {
		case err != nil && patience && ctx.Err() == nil && !refused(err):
			return patient(err)
		case err != nil:
			state = "Unknown: " + playbook.Normalise(err.Error())
		case at.Suspended:
			state = "Suspended by " + strings.Join(at.Suspenders, ", ")
		}
		found.Services = append(found.Services, v1alpha1.TriagedService{Name: service.Name, State: fmt.Sprintf("%.500s", state)})
	}
	// All of them, since Render promises no order.
	deploys, err := api.History(ctx, access.RenderServiceID(s.platform, s.mainService()))
	switch {
	case err != nil && patience && ctx.Err() == nil && !refused(err):
		return patient(err)
	case err != nil:
		return playbook.Done("%s; %s; deploys are unknown: %s", found.Health, servicesText(found.Services), playbook.Normalise(err.Error())), nil
	}
	slices.SortFunc(deploys, func(a, b render.Deploy) int { return b.CreatedAt.Compare(a.CreatedAt) })
	for _, d := range deploys[:min(len(deploys), triagedDeploys)] {
		triaged := v1alpha1.TriagedDeploy{ID: d.ID, Status: d.Status, Commit: d.Commit}
		if !d.CreatedAt.IsZero() {
			triaged.CreatedAt = seconds(d.CreatedAt)
		}
		found.Deploys = append(found.Deploys, triaged)
	}
	return playbook.Done("%s; %s; the last %d deploys are in status.triage", found.Health, servicesText(found.Services), len(found.Deploys)), nil
}

func refused(err error) bool {
	no := (*outbound.Refused)(nil)
	return errors.As(err, &no)
}

func servicesText(services []v1alpha1.TriagedService) string {
	texts := make([]string, len(services))
	for i, service := range services {
		texts[i] = service.Name + " " + service.State
	}
	return strings.Join(texts, ", ")
}

// health is what the signals say.
func (s *response) health() string {
	switch {
	case len(s.signals.Each) == 0:
		return "the signals are unknown"
	case s.signals.Because != "":
		return s.signals.Because
	case !s.signals.ClearSince.IsZero():
		return "all signals are good"
	}
	return "no signal is bad, and not all are known"
}

// mainService is the service that is rolled back, or the first.
func (s *response) mainService() string {
	if s.platform.Spec.Rollback != nil {
		return s.platform.Spec.Rollback.Service
	}
	return s.platform.Spec.Render.Services[0].Name
}

// awaitMitigation waits until all signals were good for long enough.
func awaitMitigation(_ context.Context, s *response) (playbook.Outcome, error) {
	if outcome, ok := s.byHand(); ok {
		return outcome, nil
	}
	status := &s.obj.Status
	if s.platform.Spec.Probes == nil {
		return playbook.Wait(0, v1alpha1.ReasonAwaitingMitigation, "Platform %q has no spec.probes, so nobody but you can tell when it is over: set spec.resolution then", s.platform.Name), nil
	}
	if since := s.signals.ClearSince; !since.IsZero() {
		clear := since.Add(time.Duration(s.platform.Spec.Probes.ClearSeconds) * time.Second)
		if s.now.Before(clear) {
			return playbook.Wait(s.until(clear), v1alpha1.ReasonAwaitingMitigation, "all signals are good since %s, and must stay so until %s",
				since.UTC().Format(time.RFC3339), clear.UTC().Format(time.RFC3339)), nil
		}
		// It may be that they never were bad.
		status.MitigatedAt = seconds(later(since, status.Onset.Time))
		s.note(v1alpha1.StepMitigated, "mitigated: all signals are good since %s", since.UTC().Format(time.RFC3339))
		return playbook.Done("all signals are good since %s", since.UTC().Format(time.RFC3339)), nil
	}
	// What flapped before is not good until half of the window is.
	patience := max(unhelpful, time.Duration(s.platform.Spec.Probes.WindowSeconds)*time.Second/2)
	if status.RolledBackAt != nil && s.signals.Severity != "" && s.now.Sub(status.RolledBackAt.Time) > patience {
		return playbook.Wait(lookInterval, v1alpha1.ReasonAwaitingMitigation, "the rollback did not help: %s. It is not done twice: a person has to find the cause", s.health()), nil
	}
	return playbook.Wait(lookInterval, v1alpha1.ReasonAwaitingMitigation, "%s", s.health()), nil
}

// resolve closes the incident, by hand or because the signals stayed good, and tells the people who were paged.
func resolve(ctx context.Context, s *response) (playbook.Outcome, error) {
	status := &s.obj.Status
	how := "the signals stayed good"
	if r := s.obj.Spec.Resolution; r != nil {
		how = "by " + r.By
		if r.Summary != "" {
			how += ": " + r.Summary
		}
	}
	if status.ResolvedAt == nil {
		status.ResolvedAt = seconds(s.now)
		s.note(v1alpha1.StepResolved, "resolved, %s", how)
		// Before people are told: what is not written down might be decided otherwise, with nobody paged for it.
		if err := s.save(ctx); err != nil {
			return playbook.Outcome{}, fmt.Errorf("writing down that it is resolved: %w", err)
		}
	}
	if !s.takeBack(ctx, paging.Resolve, v1alpha1.PageResolved, status.ResolvedAt.Time) {
		return playbook.Wait(channelRetry, v1alpha1.StepResolved, "%s; not every channel knows yet", how), nil
	}
	return playbook.Done("%s", how), nil
}

// close takes back what people and the public were told, where the object is deleted before it was resolved. Auto-deploy stays as it
// is, and the Platform says so.
func (s *response) close(ctx context.Context) error {
	status := &s.obj.Status
	if status.ResolvedAt != nil && (status.Notice == nil || status.Notice.Published == v1alpha1.NoticeResolved) || meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady) == nil {
		return nil
	}
	s.now = s.Now()
	p := &v1alpha1.Platform{}
	if err := s.Client.Get(ctx, s.platformKey(), p); err != nil {
		return fmt.Errorf("reading the Platform: %w", err)
	}
	s.platform = p
	if status.ResolvedAt == nil {
		status.ResolvedAt = seconds(s.now)
		s.note(v1alpha1.StepResolved, "resolved, since the incident was deleted")
	}
	told := s.takeBack(ctx, paging.Resolve, v1alpha1.PageResolved, status.ResolvedAt.Time)
	if status.Notice != nil {
		ours := status.Notice.State != v1alpha1.NoticeResolved
		s.notify(v1alpha1.NoticeResolved)
		status.Notice.ResolvedAt = status.ResolvedAt
		again, err := s.publish(ctx, ours)
		if err != nil {
			return err
		}
		told = told && again == 0
	}
	if told {
		if err := s.releaseNotice(ctx); err != nil {
			return err
		}
	}
	if err := s.save(ctx); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	if !told {
		return errors.New("not every channel knows yet that it is over")
	}
	return nil
}
