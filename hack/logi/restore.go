package logi

import "slices"

// RenderSaved is all that Render knows of a service, so that a test can go on where another one's platform was.
type RenderSaved struct {
	AutoDeploy bool            `json:"autoDeploy"`
	Deploys    []*renderDeploy `json:"deploys,omitempty"`
	Jobs       []*renderJob    `json:"jobs,omitempty"`
}

// Saved is what Render knows of a service.
func (r *Render) Saved(service string) RenderSaved {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[service]
	s.settle()
	saved := RenderSaved{AutoDeploy: s.autoDeploy}
	for _, d := range s.deploys {
		saved.Deploys = append(saved.Deploys, new(*d))
	}
	for _, j := range s.jobs {
		saved.Jobs = append(saved.Jobs, new(*j))
	}
	return saved
}

// Restore makes a service what was saved. A job that had not ended runs again; a rollback that was under way goes on
// when SetDeployStatus says so.
func (r *Render) Restore(service string, saved RenderSaved) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[service]
	s.autoDeploy, s.deploys, s.jobs = saved.AutoDeploy, saved.Deploys, saved.Jobs
	for _, j := range s.jobs {
		if j.FinishedAt.IsZero() {
			r.run(j)
		}
	}
}

// Restore makes pages and notices what Pages and Notices returned.
func (s *Services) Restore(pages []Page, notices []Notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages, s.notices = slices.Clone(pages), slices.Clone(notices)
}
