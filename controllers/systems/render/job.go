package render

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// The statuses of a job.
const (
	JobPending   = "pending"
	JobRunning   = "running"
	JobSucceeded = "succeeded"
	JobFailed    = "failed"
	JobCanceled  = "canceled"
)

// Job is a command that ran once in a service's image and environment. Its output is only in the service's logs.
type Job struct {
	ID           string
	StartCommand string
	// Status is Render's word. This code may not know it.
	Status    string
	CreatedAt time.Time
	// FinishedAt is zero until the job has ended.
	FinishedAt time.Time
}

// UnmarshalJSON reads Render's job.
func (j *Job) UnmarshalJSON(text []byte) error {
	var in struct {
		ID           string    `json:"id"`
		StartCommand string    `json:"startCommand"`
		Status       string    `json:"status"`
		CreatedAt    time.Time `json:"createdAt"`
		FinishedAt   time.Time `json:"finishedAt"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	if in.ID == "" {
		return errors.New("no job")
	}
	*j = Job(in)
	return nil
}

// StartJob runs a command in the service's image and environment: POST /services/{id}/jobs. Each call runs it once
// more: after an error for which outbound.NoEffect is false, look for the job among Jobs instead.
func (c *Client) StartJob(ctx context.Context, serviceID, startCommand string) (*Job, error) {
	var j Job
	if err := c.write(ctx, http.MethodPost, "/services/"+url.PathEscape(serviceID)+"/jobs",
		map[string]string{"startCommand": startCommand}, &j); err != nil {
		return nil, fmt.Errorf("starting a job of the service %s: %w", serviceID, err)
	}
	return &j, nil
}

// Job reads GET /services/{id}/jobs/{id}.
func (c *Client) Job(ctx context.Context, serviceID, id string) (*Job, error) {
	var j Job
	if err := c.get(ctx, "/services/"+url.PathEscape(serviceID)+"/jobs/"+url.PathEscape(id), nil, &j); err != nil {
		return nil, fmt.Errorf("reading the job %s: %w", id, err)
	}
	return &j, nil
}

// Jobs reads a service's jobs that were created after a time of Render's clock: up to 500, in no promised order.
func (c *Client) Jobs(ctx context.Context, serviceID string, createdAfter time.Time) ([]Job, error) {
	var all []Job
	cursor := ""
	for range maxPages {
		query := url.Values{"createdAfter": {createdAfter.UTC().Format(time.RFC3339)}}
		jobs, next, err := list[Job](ctx, c, "/services/"+url.PathEscape(serviceID)+"/jobs", "job", query, pageSize, cursor)
		if err != nil {
			return nil, fmt.Errorf("listing jobs of the service %s: %w", serviceID, err)
		}
		all = append(all, jobs...)
		if next == "" {
			return all, nil
		}
		cursor = next
	}
	return nil, fmt.Errorf("listing jobs of the service %s: more than %d were created in that time", serviceID,
		maxPages*pageSize)
}
