package incident

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

const (
	// triageDeadline is how long triage waits for Render. What can't be read then is unknown.
	triageDeadline = time.Minute
	// triageTimeout bounds what triage reads in a pass, so that the next page is not late.
	triageTimeout = 15 * time.Second
	// ownLookTimeout bounds the look at the platform where it is not probed.
	ownLookTimeout = 5 * time.Second
	// triagedDeploys is how many the playbook looks at.
	triagedDeploys = 5
)

// triage is the first look: health, what runs, and what was deployed. It decides nothing.
func triage(ctx context.Context, s *response) (playbook.Outcome, error) {
	if s.ByHand() {
		return playbook.NotNeeded("resolved by %s", s.Incident.Spec.Resolution.By), nil
	}
	ctx, cancel := context.WithTimeout(ctx, triageTimeout)
	defer cancel()
	found := &v1alpha1.TriageStatus{Health: s.health(ctx)}
	s.Incident.Status.Triage = found
	if s.Platform.Spec.Render == nil {
		return playbook.Done("%s; Platform %q has no spec.render, so services and deploys are unknown", found.Health, s.Platform.Name), nil
	}
	patience := s.Now.Before(s.Incident.CreationTimestamp.Add(triageDeadline))
	api, err := s.r.Connections.Render(ctx, s.Platform)
	if err != nil {
		if patience {
			return playbook.Outcome{}, err
		}
		return playbook.Done("%s; services and deploys are unknown: %s", found.Health, playbook.Normalise(err.Error())), nil
	}
	patience = patience && ctx.Err() == nil
	if found.Services, err = services(ctx, api, s.Platform); err != nil && patience && !refused(err) {
		return journal.Patient("Render", err)
	}
	// All of them, since Render promises no order.
	deploys, err := api.History(ctx, access.RenderServiceID(s.Platform, s.mainService()))
	switch {
	case err != nil && patience && !refused(err):
		return journal.Patient("Render", err)
	case err != nil:
		return playbook.Done("%s; %s; deploys are unknown: %s", found.Health, servicesText(found.Services), playbook.Normalise(err.Error())), nil
	}
	found.Deploys = newest(deploys)
	return playbook.Done("%s; %s; the last %d deploys are in status.triage", found.Health, servicesText(found.Services), len(found.Deploys)), nil
}

// services as Render shows them. The error is the last one; a service that could not be read says so.
func services(ctx context.Context, api *render.Client, p *v1alpha1.Platform) (found []v1alpha1.TriagedService, last error) {
	for _, service := range p.Spec.Render.Services {
		state := "Running"
		at, err := api.Service(ctx, service.ServiceID)
		switch {
		case err != nil:
			state, last = "Unknown: "+playbook.Normalise(err.Error()), err
		case at.Suspended:
			state = "Suspended by " + strings.Join(at.Suspenders, ", ")
		}
		found = append(found, v1alpha1.TriagedService{Name: service.Name, State: fmt.Sprintf("%.500s", state)})
	}
	return found, last
}

func newest(deploys []render.Deploy) (found []v1alpha1.TriagedDeploy) {
	slices.SortFunc(deploys, func(a, b render.Deploy) int { return b.CreatedAt.Compare(a.CreatedAt) })
	for _, d := range deploys[:min(len(deploys), triagedDeploys)] {
		triaged := v1alpha1.TriagedDeploy{ID: d.ID, Status: d.Status, Commit: d.Commit}
		if !d.CreatedAt.IsZero() {
			triaged.CreatedAt = journal.Seconds(d.CreatedAt)
		}
		found = append(found, triaged)
	}
	return found
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

// health is what the signals say, or where the platform is not probed, what one look says.
func (s *response) health(ctx context.Context) string {
	switch {
	case s.Platform.Spec.Probes == nil:
		return s.lookOnce(ctx)
	case len(s.signals.Each) == 0:
		return "the signals are unknown: the probes have not answered yet"
	}
	return s.signals.Summary()
}

// lookOnce asks what the probes would ask. One look confirms nothing: it is for people to read.
func (s *response) lookOnce(ctx context.Context) string {
	probe := &platformapi.Probe{URL: s.Platform.Spec.URL, Timeout: ownLookTimeout, Transport: s.r.Connections.Transport}
	looks := make([]platformapi.Look, 3)
	var group sync.WaitGroup
	for i, look := range []func(context.Context) platformapi.Look{
		probe.Up, probe.JWKS, func(ctx context.Context) platformapi.Look { return probe.Tokens(ctx, nil) },
	} {
		group.Go(func() { looks[i] = look(ctx) })
	}
	group.Wait()
	texts := make([]string, len(looks))
	for i, look := range looks {
		texts[i] = look.Message
	}
	return fmt.Sprintf("one look, since Platform %q has no spec.probes: %.800s", s.Platform.Name, strings.Join(texts, "; "))
}

// mainService is the service that is rolled back, or the first.
func (s *response) mainService() string {
	if s.Platform.Spec.Rollback != nil {
		return s.Platform.Spec.Rollback.Service
	}
	return s.Platform.Spec.Render.Services[0].Name
}
