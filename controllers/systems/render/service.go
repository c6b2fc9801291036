package render

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// Service is a web service, a worker, or another thing that Render runs.
type Service struct {
	ID   string
	Name string
	// AutoDeploy says whether a push is deployed.
	AutoDeploy bool
	// Suspended says that the service does not run. Suspenders say why: user, billing, stuck_crashlooping and others.
	Suspended  bool
	Suspenders []string
}

// UnmarshalJSON reads Render's service. It is an error if Render does not say whether the service is suspended: unknown
// is not healthy.
func (s *Service) UnmarshalJSON(text []byte) error {
	var in struct {
		ID         string   `json:"id"`
		Name       string   `json:"name"`
		AutoDeploy string   `json:"autoDeploy"`
		Suspended  string   `json:"suspended"`
		Suspenders []string `json:"suspenders"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	if in.ID == "" || in.Suspended != "suspended" && in.Suspended != "not_suspended" {
		return errors.New("no service")
	}
	*s = Service{
		ID: in.ID, Name: in.Name, AutoDeploy: in.AutoDeploy == "yes",
		Suspended: in.Suspended == "suspended", Suspenders: in.Suspenders,
	}
	return nil
}

// Service reads GET /services/{id}.
func (c *Client) Service(ctx context.Context, id string) (*Service, error) {
	var s Service
	if err := c.get(ctx, "/services/"+url.PathEscape(id), nil, &s); err != nil {
		return nil, fmt.Errorf("reading the service %s: %w", id, err)
	}
	return &s, nil
}

// SetAutoDeploy says whether a push is deployed: PATCH /services/{id}. It is idempotent.
func (c *Client) SetAutoDeploy(ctx context.Context, id string, on bool) error {
	value := "no"
	if on {
		value = "yes"
	}
	var s Service
	err := c.write(ctx, http.MethodPatch, "/services/"+url.PathEscape(id), map[string]string{"autoDeploy": value}, &s)
	if err == nil && s.AutoDeploy != on {
		err = errors.New("the answer says that nothing changed")
	}
	if err != nil {
		return fmt.Errorf("setting autoDeploy of the service %s to %s: %w", id, value, err)
	}
	return nil
}
