package ssh

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

const pemBody = "MC4CAQAwBQYDK2VwBCIEIHVzZWxlc3MgYnV0IHNlY3JldCBpbiBmb3JtIQ=="

func TestSecretsAreTakenOutOfAnOutput(t *testing.T) {
	key := "-----BEGIN PRIVATE KEY-----\n" + pemBody + "\n-----END PRIVATE KEY-----"
	for text, secret := range map[string]string{
		"key:\n" + key + "\nafter": pemBody,
		// Something printed only a part of the key.
		"-----BEGIN OPENSSH PRIVATE KEY-----\n" + pemBody:       pemBody,
		pemBody + "\n-----END EC PRIVATE KEY-----\nafter":       pemBody,
		"one line: " + strings.ReplaceAll(key, "\n", `\n`):      pemBody,
		"DATABASE_URL=postgres://owner:hunter-two@db/identity":  "hunter-two",
		"connecting to redis://:hunter-two@cache:6379/0 failed": "hunter-two",
		"Authorization: Bearer hunter-two-hunter-two":           "hunter-two",
		`{"Authorization"=>"Token hunter-two"}`:                 "hunter-two",
		"curl -H 'authorization: Basic aHVudGVyLXR3bw=='":       "aHVudGVyLXR3bw",
		"sent Bearer hunter-two":                                "hunter-two",
		"RENDER_API_KEY=rnd_hunter2":                            "rnd_hunter2",
		`password: "hunter two"`:                                "hunter two",
		`{:secret_key_base=>"hunter-two"}`:                      "hunter-two",
		"access_token => hunter-two":                            "hunter-two",
		"eyJhbGciOiJFZERTQSJ9eyJhbGciOiJFZERTQSJ9.x":            "eyJhbGciOiJFZERTQSJ9eyJhbGciOiJFZERTQSJ9",
	} {
		if got := scrub(text); strings.Contains(got, secret) || !strings.Contains(got, removed) {
			t.Errorf("%s\nbecame\n%s", text, got)
		}
	}
	harmless := "rails aborted!\nActiveRecord::ConnectionNotEstablished: no connection to 10.0.0.7\n" +
		"/opt/render/project/src/server/lib/tasks/webhooks_compromise.rake:12:in `block'\n" +
		"revoked whk_2026_08 at 2026-11-24 13:52:39 UTC, issued whk_42_kjcvqsh7pn, re-signed 812 entries"
	if got := scrub(harmless); got != harmless {
		t.Errorf("%s\nbecame\n%s", harmless, got)
	}
	if got := scrub("a\x00b\xffc"); got != "a?b?c" {
		t.Errorf("%q does not fit a text column", got)
	}
}

func TestAnOutputIsBoundedAndKeepsItsEnds(t *testing.T) {
	var o output
	fmt.Fprintln(&o, "the beginning")
	// The output is cut within a key, so each half has only one end of it.
	for range 10 {
		fmt.Fprint(&o, "-----BEGIN PRIVATE KEY-----\n", strings.Repeat(pemBody[:60]+"\n", 2000),
			"-----END PRIVATE KEY-----\n")
	}
	_, _ = o.Write(bytes.Repeat([]byte("x"), 1000))
	fmt.Fprintln(&o, "\nthe end")
	got := o.String()
	if len(got) > 2*outputHalf+200 || !strings.HasPrefix(got, "the beginning\n") ||
		!strings.HasSuffix(got, "\nthe end\n") || !strings.Contains(got, "bytes left out") {
		t.Errorf("%d bytes: %.100s … %s", len(got), got, got[max(0, len(got)-100):])
	}
	if strings.Contains(got, pemBody[:60]) {
		t.Error("a key that was cut is in it")
	}
}
