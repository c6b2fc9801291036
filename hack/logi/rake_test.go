package logi_test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func (p *platform) activeKid() (kid string) {
	p.t.Helper()
	if err := p.db.QueryRow(p.t.Context(),
		`SELECT kid FROM webhook_signing_keys WHERE status = 'active' ORDER BY id DESC LIMIT 1`).Scan(&kid); err != nil {
		p.t.Fatal(err)
	}
	return kid
}

func TestTheRakeEndsAKeyWholeAndTheRelyingPartyFollows(t *testing.T) {
	p := start(t, manual())
	if err := p.EncryptKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	var private string
	if err := p.db.QueryRow(t.Context(), `SELECT private_key FROM webhook_signing_keys`).Scan(&private); err != nil ||
		strings.Contains(private, "PRIVATE KEY") || !strings.HasPrefix(private, `{"p":`) {
		t.Errorf("%v: the column holds %s", err, private)
	}
	stolen, err := p.StealKey(t.Context(), acme)
	if err != nil {
		t.Fatal(err)
	}
	p.enqueue(3)
	p.seedDead(4, "HTTP 503: Service Unavailable", 7)
	kid := p.activeKid()
	dir := t.TempDir()
	bundle, err := p.InstallBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bundle, "exec", "rails", "webhooks:compromise["+strconv.Itoa(acme)+", "+kid+
		"]", "RAILS_ENV=production")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "re-signed 7 entries") {
		t.Fatalf("%v: %s", err, out)
	}
	if runs := p.RakeRuns(); len(runs) != 1 || filepath.Base(runs[0].Directory) != filepath.Base(dir) ||
		len(runs[0].Arguments) != 4 {
		t.Errorf("%q", runs)
	}
	p.exec(`UPDATE webhook_outbox_entries SET dlq_at = NULL`)
	if n := p.dispatch(); n != 8 {
		t.Errorf("%d attempts", n)
	}
	if got := p.answered(); got[http.StatusOK] != 8 {
		t.Errorf("answered %v", got)
	}
	if status, err := stolen.Forge(t.Context(), `{"type": "user.deleted"}`); err != nil ||
		status != http.StatusUnauthorized {
		t.Errorf("the stolen key: %d, %v", status, err)
	}
}

func TestTheRakeFailsAsToldAndReadsItsArgumentsAsRakeDoes(t *testing.T) {
	p := start(t, manual())
	kid := p.activeKid()
	bundle, err := p.InstallBundle(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	compromise := func(kid string) []string {
		return []string{"exec", "rails", "webhooks:compromise[" + strconv.Itoa(acme) + "," + kid +
			"]", "RAILS_ENV=production"}
	}
	refused := func(want string, arguments ...string) {
		t.Helper()
		out, err := exec.Command(bundle, arguments...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%q: %v: %s", arguments, err, out)
		}
		if p.activeKid() != kid {
			t.Error("the key was ended")
		}
	}
	refused("RecordNotFound", compromise("nobody")...)
	refused("Don't know how to build task", compromise(kid+",more")...)
	refused("Don't know how to build task", "exec", "rails", "webhooks:other[42,"+kid+"]", "RAILS_ENV=production")
	refused("what is", "exec", "rails", compromise(kid)[2], "RAILS_ENV=development")
	p.SetRakeFault(logi.RakeFault{Fail: true, Print: "words\n"})
	refused("words", compromise(kid)...)
	p.SetRakeFault(logi.RakeFault{})
	// Backslashes are taken away, and blanks at the ends.
	if printed, ok := p.Rake(t.Context(), "/", compromise(` \`+kid+" "), 0); !ok || p.activeKid() == kid {
		t.Error(printed)
	}
}
