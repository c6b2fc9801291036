package ssh

import (
	"os/exec"
	"strings"
	"testing"
)

func TestTheCommandIsThePlaybooks(t *testing.T) {
	rails := Rails{Directory: "/opt/render/project/src/server", Bundle: "/opt/render/project/.gems/bin/bundle",
		Environment: "production"}
	got, err := rails.Compromise(42, "whk_2026_08")
	want := `cd /opt/render/project/src/server && /opt/render/project/.gems/bin/bundle ` +
		`exec rails 'webhooks:compromise[42,whk_2026_08]' RAILS_ENV=production`
	if err != nil || got != want {
		t.Errorf("%v\n%s\n%s", err, got, want)
	}
}

func TestAKidThatRakeWouldReadOtherwiseIsRefused(t *testing.T) {
	for _, kid := range []string{"", "a,b", "a]", "a\nb", "a\rb", "a\x00b", `a\b`, " a", "a\t", "a ", "a\u00a0",
		"a,$(touch x)"} {
		if command, err := (Rails{}).Compromise(42, kid); err == nil || command != "" {
			t.Errorf("%q became %s", kid, command)
		}
	}
	for _, kid := range []string{"a", "it's", `"; rm -rf / #`, "$(id)", "`id`", "a b", "a[b", "é", "!!", "*", "~root",
		"-x", "a=b"} {
		if _, err := (Rails{}).Compromise(42, kid); err != nil {
			t.Error(err)
		}
	}
}

// shellReads returns the words that a real shell makes of a line.
func shellReads(t *testing.T, line string) []string {
	t.Helper()
	// Each word is followed by NUL, which no word can have.
	out, err := exec.Command("/bin/sh", "-c", "printf '%s\\0' "+line).Output()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	words := strings.Split(string(out), "\x00")
	return words[:len(words)-1]
}

// FuzzAShellReadsWhatWasQuoted asks a real /bin/sh.
func FuzzAShellReadsWhatWasQuoted(f *testing.F) {
	for _, text := range []string{"", "plain", "it's", "''", `\'`, "$(touch /tmp/x)", "`id`", "a b\tc\nd", "*?[a]", "~",
		"é\xff", "!!", "-n", "a;b&c|d>e<f(g)", "#", "A=b", "%s\\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ReplaceAll(text, "\x00", "")
		if got := shellReads(t, quote(text)); len(got) != 1 || got[0] != text {
			t.Errorf("%q was quoted as %s and read as %q", text, quote(text), got)
		}
		rails := Rails{Directory: "/a " + text, Bundle: "/b", Environment: "production"}
		command, err := rails.Compromise(42, text)
		if err != nil {
			return
		}
		words := shellReads(t, strings.Replace(command, " && ", " @@ ", 1))
		// The directory may have had " && " in it, so the words are counted from the end.
		if words[len(words)-2] != "webhooks:compromise[42,"+text+"]" || words[len(words)-1] != "RAILS_ENV=production" {
			t.Errorf("%q became %s, read as %q", text, command, words)
		}
	})
}
