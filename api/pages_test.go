// Package api_test keeps the pages that people read beside the contract that they are about.
package api_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Every condition and every reason that a person can see in an object is explained in a page.
func TestPagesExplainEachConditionAndReason(t *testing.T) {
	var pages strings.Builder
	paths, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if path == "README.md" {
			continue // it is generated, and lists fields
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pages.Write(text)
	}
	named := constants(t, "v1alpha1/conditions.go")
	if len(named) < 80 {
		t.Fatalf("conditions.go has %d conditions and reasons: the test does not see them", len(named))
	}
	for name, value := range named {
		explained := "`" + value + "`"
		if strings.HasPrefix(name, "Reason") {
			explained = "\n| " + explained + " | " // a row of its own
		}
		if !strings.Contains(pages.String(), explained) {
			t.Errorf("no page explains `%s` (%s): say what it means and what to do about it", value, name)
		}
	}
}

// Each kind has a page, and its page explains the steps that it has.
func TestEachKindHasAPage(t *testing.T) {
	for _, kind := range []string{"platform", "incident", "dlqreplay", "keycompromise"} {
		text, err := os.ReadFile(kind + ".md")
		if err != nil {
			t.Error(err)
			continue
		}
		for _, condition := range []string{"`Ready`", "`Reconciling`", "`Stalled`"} {
			if !strings.Contains(string(text), condition) {
				t.Errorf("%s.md does not explain %s", kind, condition)
			}
		}
	}
}

// constants are the conditions, steps and reasons of a file, by name.
func constants(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			isNamed := false
			for _, prefix := range []string{"Condition", "Step", "Reason"} {
				isNamed = isNamed || strings.HasPrefix(name.Name, prefix)
			}
			if !isNamed || i >= len(spec.Values) {
				continue
			}
			literal, ok := spec.Values[i].(*ast.BasicLit)
			if !ok {
				t.Fatalf("%s is not a literal", name.Name)
			}
			if found[name.Name], err = strconv.Unquote(literal.Value); err != nil {
				t.Fatal(err)
			}
		}
		return true
	})
	return found
}
