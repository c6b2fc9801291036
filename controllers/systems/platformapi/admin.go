// Package platformapi is the identity platform's HTTP API.
package platformapi

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// Admin is the admin API, under /api/v1/admin.
type Admin struct {
	url       string
	token     string
	transport http.RoundTripper
}

// NewAdmin opens the admin API of the platform at url with an admin token. A nil transport is outbound's.
func NewAdmin(url, token string, transport http.RoundTripper) *Admin {
	return &Admin{url: url, token: token, transport: transport}
}

// Retry asks for one entry to be requeued: POST /api/v1/admin/webhook_outbox/:id/retry, with the nonce of a step-up
// authentication, which is good once. Errors are outbound's; a *outbound.Refused has the platform's error code as its
// message. After an error for which outbound.NoEffect is false, nobody knows whether it happened.
func (a *Admin) Retry(ctx context.Context, id int64, nonce string) error {
	answer, err := outbound.Do(ctx, a.transport, outbound.Call{
		Method: http.MethodPost, URL: a.url, Path: "/api/v1/admin/webhook_outbox/" + strconv.FormatInt(id, 10) + "/retry",
		Header:  map[string]string{"Authorization": "Bearer " + a.token},
		Body:    map[string]string{"action_request_nonce": nonce},
		Secrets: []string{a.token, nonce}, MaxAnswer: maxAnswer,
	})
	if err != nil {
		return err
	}
	// The status says that it happened, whatever became of the body.
	if answer.Status/100 == 2 {
		return nil
	}
	return answer.Err(code(answer.Body))
}

var codePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// code is the error code of an answer, where it looks like one: nothing else of a far side's text goes into a status.
func code(answer []byte) string {
	var body struct {
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(answer, &body) != nil || !codePattern.MatchString(body.Error.Code) {
		return ""
	}
	return body.Error.Code
}
