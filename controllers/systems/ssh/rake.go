package ssh

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Rails is where a platform's Rails application is installed on its host.
type Rails struct {
	// Directory of the application, and Bundle, the program, by its path.
	Directory, Bundle string
	// Environment is RAILS_ENV.
	Environment string
}

// Compromise is the command, for a POSIX shell, that ends a signing key by the platform's own rake. The error says that
// rake would read the kid as another one.
func (r Rails) Compromise(application int64, kid string) (string, error) {
	// Rake splits arguments at commas, and ends them at the bracket and at the end of the line. It removes backslashes,
	// and blanks at both ends (Rake::Application#parse_task_string).
	special := func(c rune) bool { return strings.ContainsRune(`,]\`, c) || unicode.IsControl(c) }
	if i := strings.IndexFunc(kid, special); i >= 0 {
		return "", fmt.Errorf("rake can't be given the kid %q, which has %s", kid, strconv.QuoteRune([]rune(kid[i:])[0]))
	}
	if kid == "" || strings.TrimSpace(kid) != kid {
		return "", fmt.Errorf("rake can't be given the kid %q, which begins or ends with a blank", kid)
	}
	return fmt.Sprintf("cd %s && %s exec rails %s RAILS_ENV=%s", quote(r.Directory), quote(r.Bundle),
		quote(fmt.Sprintf("webhooks:compromise[%d,%s]", application, kid)), quote(r.Environment)), nil
}

// plain words need no quotes.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+:,./-]+$`)

// quote makes one word of a POSIX shell from any text without NUL.
func quote(text string) string {
	if plain.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
