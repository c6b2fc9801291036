package render

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// The statuses that mean something to a caller. A deploy of another status is on the way (InProgress), or ended and was
// never live.
const (
	StatusLive = "live"
	// StatusDeactivated is the status of a deploy that was live once.
	StatusDeactivated = "deactivated"
	// A deploy of StatusPreDeploy runs its pre-deploy command, and one of StatusUpdate swaps instances. The new instances
	// may answer already.
	StatusPreDeploy = "pre_deploy_in_progress"
	StatusUpdate    = "update_in_progress"
)

// TriggerRollback is the trigger of a deploy that was made by a rollback.
const TriggerRollback = "rollback"

// Deploy of a service.
type Deploy struct {
	ID string
	// Commit is the commit's id. Where an image is deployed, it is the image's digest.
	Commit string
	// CommittedAt is when the commit was made. It is zero where Render does not say.
	CommittedAt time.Time
	// Status and Trigger are Render's words. This code may not know them.
	Status  string
	Trigger string
	// CreatedAt and FinishedAt are zero where Render does not say. FinishedAt is when the deploy became live.
	CreatedAt  time.Time
	FinishedAt time.Time
}

// InProgress says whether the deploy may still become live.
func (d *Deploy) InProgress() bool {
	switch d.Status {
	case "created", "queued", "build_in_progress", StatusPreDeploy, StatusUpdate:
		return true
	}
	return false
}

// UnmarshalJSON reads Render's deploy.
func (d *Deploy) UnmarshalJSON(text []byte) error {
	var in struct {
		ID     string `json:"id"`
		Commit struct {
			ID        string    `json:"id"`
			CreatedAt time.Time `json:"createdAt"`
		} `json:"commit"`
		Image struct {
			SHA string `json:"sha"`
		} `json:"image"`
		Status     string    `json:"status"`
		Trigger    string    `json:"trigger"`
		CreatedAt  time.Time `json:"createdAt"`
		FinishedAt time.Time `json:"finishedAt"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	if in.ID == "" {
		return errors.New("no deploy")
	}
	*d = Deploy{
		ID: in.ID, Commit: cmp.Or(in.Commit.ID, in.Image.SHA), CommittedAt: in.Commit.CreatedAt,
		Status: in.Status, Trigger: in.Trigger, CreatedAt: in.CreatedAt, FinishedAt: in.FinishedAt,
	}
	return nil
}

// Live is the deploy that is live. It is nil where none is, or where Render does not say since when. A list that is
// read while it changes may have two; then it is the newer one.
func Live(deploys []Deploy) *Deploy {
	var live *Deploy
	for i, d := range deploys {
		if d.Status == StatusLive && !d.FinishedAt.IsZero() && (live == nil || d.FinishedAt.After(live.FinishedAt)) {
			live = &deploys[i]
		}
	}
	return live
}

// Deploys reads one page of GET /services/{id}/deploys: up to limit deploys, 1 to 100, in no promised order. next is
// the cursor of the following page; it is empty after the last one.
func (c *Client) Deploys(
	ctx context.Context, serviceID string, limit int, cursor string,
) (deploys []Deploy, next string, err error) {
	path := "/services/" + url.PathEscape(serviceID) + "/deploys"
	deploys, next, err = list[Deploy](ctx, c, path, "deploy", url.Values{}, limit, cursor)
	if err != nil {
		return nil, "", fmt.Errorf("listing deploys of the service %s: %w", serviceID, err)
	}
	return deploys, next, nil
}

// History reads the deploys that Choose looks at: all of them, or the newest 500. Where a page can't be read, there is
// no history: the deploy that matters could be on that page.
func (c *Client) History(ctx context.Context, serviceID string) ([]Deploy, error) {
	var all []Deploy
	cursor := ""
	for range maxPages {
		deploys, next, err := c.Deploys(ctx, serviceID, pageSize, cursor)
		if err != nil {
			return nil, err
		}
		all = append(all, deploys...)
		if next == "" {
			return all, nil
		}
		cursor = next
	}
	// Render lists the newest first, but does not promise it. If those that were read are in order, the others are older.
	if !slices.IsSortedFunc(all, func(a, b Deploy) int { return b.CreatedAt.Compare(a.CreatedAt) }) {
		return nil, fmt.Errorf("listing deploys of the service %s: they are too many to be read, and not the newest first",
			serviceID)
	}
	return all, nil
}

// Deploy reads GET /services/{id}/deploys/{id}.
func (c *Client) Deploy(ctx context.Context, serviceID, id string) (*Deploy, error) {
	var d Deploy
	if err := c.get(ctx, "/services/"+url.PathEscape(serviceID)+"/deploys/"+url.PathEscape(id), nil, &d); err != nil {
		return nil, fmt.Errorf("reading the deploy %s: %w", id, err)
	}
	return &d, nil
}

// Rollback deploys again what an earlier deploy built: POST /services/{id}/rollback. It returns the new deploy, which
// is not live yet. Auto-deploy stays as it is. Each call is another deploy: after an error for which outbound.NoEffect
// is false, look for a deploy with TriggerRollback instead.
func (c *Client) Rollback(ctx context.Context, serviceID, deployID string) (*Deploy, error) {
	var d Deploy
	if err := c.write(ctx, http.MethodPost, "/services/"+url.PathEscape(serviceID)+"/rollback",
		map[string]string{"deployId": deployID}, &d); err != nil {
		return nil, fmt.Errorf("rolling the service %s back to %s: %w", serviceID, deployID, err)
	}
	return &d, nil
}
