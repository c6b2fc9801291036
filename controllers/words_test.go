package controllers_test

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// many is a number that is followed, after at most two words, by a word that stands for more than one.
var many = regexp.MustCompile(`%d(?: [a-z-]+){0,2} [a-z]{3,}s\b`)

// fits are texts whose number before such a word is never 1, or counts something else.
var fits = []string{
	"%d incidents are open",
	"%d of %d answers in a row were clean. The last one %s",
	"the answer is longer than %d bytes",
	"the ledger's schema is version %d and this manager needs %d: run `manager migrate`",
	"the plan has %d entries, more than %d",
	"%s\n[%d bytes left out]\n%s",
}

func TestNoMessageCountsOneAsMany(t *testing.T) {
	found := map[string]bool{}
	each(t, "..", func(path string, file *ast.File, set *token.FileSet) {
		ours := strings.HasPrefix(path, "controllers/") || strings.HasPrefix(path, "cmd/")
		if !ours || strings.HasSuffix(path, "_test.go") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			text, is := literal(n)
			if !is {
				return true
			}
			switch {
			case slices.Contains(fits, text):
				found[text] = true
			case many.MatchString(text):
				t.Errorf("%s: %q is wrong where the number is 1: playbook.Count writes it", set.Position(n.Pos()),
					many.FindString(text))
			}
			return false
		})
	})
	for _, text := range fits {
		if !found[text] {
			t.Errorf("the list has %q, which is not there", text)
		}
	}
}

// literal is the text of a string that may be written in several parts.
func literal(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(n.Value)
		return text, err == nil && n.Kind == token.STRING
	case *ast.BinaryExpr:
		left, ok := literal(n.X)
		right, also := literal(n.Y)
		return left + right, ok && also
	}
	return "", false
}
