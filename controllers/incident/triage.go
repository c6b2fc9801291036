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
	// triageTimeout bounds what triage reads.
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
	p, onset := s.Platform, s.Incident.Status.Onset.Time
	look, err := playbook.Ask(ctx, &s.r.aside, string(s.Incident.UID)+"/triage", "Render and the platform", triageTimeout,
		func(ctx context.Context) (firstLook, error) { return s.r.lookAt(ctx, p, onset), nil })
	if err != nil {
		return playbook.Outcome{}, err
	}
	if s.Now.Before(s.Incident.CreationTimestamp.Add(triageDeadline)) && look.err != nil && !refused(look.err) {
		return journal.Patient("Render", look.err)
	}
	found := &v1alpha1.TriageStatus{Health: s.health(look), Services: look.services, Deploys: look.deploys}
	s.Incident.Status.Triage = found
	switch {
	case p.Spec.Render == nil:
		return playbook.Done("%s; Platform %q has no spec.render, so services and deploys are unknown", found.Health,
			p.Name), nil
	case look.err != nil && len(found.Services) == 0:
		return playbook.Done("%s; services and deploys are unknown: %s", found.Health,
			playbook.Normalise(look.err.Error())), nil
	case look.err != nil && len(found.Deploys) == 0:
		return playbook.Done("%s; %s; deploys are unknown: %s", found.Health, servicesText(found.Services),
			playbook.Normalise(look.err.Error())), nil
	}
	return playbook.Done("%s; %s; %s in status.triage%s", found.Health, servicesText(found.Services),
		playbook.Count(len(found.Deploys), "deploy is", "deploys are"), s.suspicion(look.suspect)), nil
}

// suspicion names the deploy that may have broken something. Of an Outage a step of its own does.
func (s *response) suspicion(suspect *render.Deploy) string {
	if suspect == nil || s.Incident.Spec.Category == v1alpha1.CategoryOutage {
		return ""
	}
	return fmt.Sprintf("; %s (%s) is suspicious, since it went live at %s. It is not rolled back, since this is no Outage",
		suspect.ID, suspect.Commit, suspect.FinishedAt.UTC().Format(time.RFC3339))
}

// firstLook is what triage reads.
type firstLook struct {
	// health is what one look at the platform says, where it is not probed.
	health   string
	services []v1alpha1.TriagedService
	deploys  []v1alpha1.TriagedDeploy
	// suspect is the live deploy of the service that would be rolled back, if it went live shortly before the onset.
	suspect *render.Deploy
	// err is the last thing at Render that could not be read.
	err error
}

func (r *Reconciler) lookAt(ctx context.Context, p *v1alpha1.Platform, onset time.Time) firstLook {
	var look firstLook
	if p.Spec.Probes == nil {
		look.health = r.lookOnce(ctx, p)
	}
	if p.Spec.Render == nil {
		return look
	}
	api, err := r.Connections.Render(ctx, p)
	if err != nil {
		look.err = err
		return look
	}
	var main *render.Service
	look.services, main, look.err = services(ctx, api, p)
	// All of them, since Render promises no order.
	deploys, err := api.History(ctx, access.RenderServiceID(p, mainService(p)))
	if err != nil {
		look.err = err
		return look
	}
	look.deploys = newest(deploys)
	if main != nil && p.Spec.Rollback != nil {
		window := time.Duration(p.Spec.Rollback.WindowSeconds) * time.Second
		look.suspect = render.Choose(main, deploys, render.Regression{Onset: onset, Window: window}).Suspect
	}
	return look
}

// services as Render shows them, and the main one. The error is the last one; a service that could not be read says so.
func services(ctx context.Context, api *render.Client, p *v1alpha1.Platform) (found []v1alpha1.TriagedService,
	main *render.Service, last error) {
	for _, service := range p.Spec.Render.Services {
		state := "Running"
		at, err := api.Service(ctx, service.ServiceID)
		switch {
		case err != nil:
			state, last = "Unknown: "+playbook.Normalise(err.Error()), err
		case at.Suspended:
			state = "Suspended by " + strings.Join(at.Suspenders, ", ")
		}
		if service.Name == mainService(p) {
			main = at
		}
		found = append(found, v1alpha1.TriagedService{Name: service.Name, State: fmt.Sprintf("%.500s", state)})
	}
	return found, main, last
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
func (s *response) health(look firstLook) string {
	switch {
	case look.health != "":
		return look.health
	case len(s.signals.Each) == 0:
		return "the signals are unknown: the probes have not answered yet"
	}
	return s.signals.Summary()
}

// lookOnce asks what the probes would ask. One look confirms nothing: it is for people to read.
func (r *Reconciler) lookOnce(ctx context.Context, p *v1alpha1.Platform) string {
	probe := &platformapi.Probe{URL: p.Spec.URL, Timeout: ownLookTimeout, Transport: r.Connections.Transport}
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
	return fmt.Sprintf("one look, since Platform %q has no spec.probes: %.800s", p.Name, strings.Join(texts, "; "))
}

// mainService is the service that is rolled back, or the first.
func mainService(p *v1alpha1.Platform) string {
	if p.Spec.Rollback != nil {
		return p.Spec.Rollback.Service
	}
	return p.Spec.Render.Services[0].Name
}
