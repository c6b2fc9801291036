package logi

import "slices"

// RenderSaved is the whole state of a service at Render. With it, a test can begin in a state that another test saved.
type RenderSaved struct {
	AutoDeploy bool            `json:"autoDeploy"`
	Deploys    []*renderDeploy `json:"deploys,omitempty"`
	Jobs       []*renderJob    `json:"jobs,omitempty"`
}

// Saved is the state of a service.
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

// Restore sets a service to a saved state. A job that had not ended runs again. A rollback that was under way goes on
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

// Restore sets pages and notices to what Pages and Notices returned.
func (s *Services) Restore(pages []Page, notices []Notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages, s.notices = slices.Clone(pages), slices.Clone(notices)
}
