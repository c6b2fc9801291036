// Package controllers_test holds what the house promises: a room for each thing, and doors that lead one way.
package controllers_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

const module = "github.com/1pass-dev/playbook-operator/"

// rooms from the ground up. A room imports those above it in this list, and none below.
var rooms = [][]string{
	{"api/v1alpha1", "config/database"},
	{"controllers/systems/outbound"},
	{
		"controllers/systems/platformdb", "controllers/systems/platformapi", "controllers/systems/render",
		"controllers/systems/ssh",
		"controllers/systems/paging", "controllers/systems/statuspage",
	},
	{"controllers/playbook"},
	{"controllers/access"},
	{"controllers/signals"},
	{"controllers/claims"},
	{"controllers/opening", "controllers/replays"},
	{"controllers/platform", "controllers/incident/journal", "controllers/command"},
	{
		"controllers/incident/escalation", "controllers/incident/notice", "controllers/incident/rollback",
		"controllers/incident/exposure", "controllers/incident/webhooks", "controllers/incident/jwks",
	},
	{"controllers/incident", "controllers/dlqreplay", "controllers/keycompromise"},
	{"cmd/manager"},
}

// systems import neither the API nor another system.
func TestEachRoomImportsOnlyWhatIsAboveIt(t *testing.T) {
	floor := map[string]int{}
	for i, names := range rooms {
		for _, name := range names {
			floor[name] = i
		}
	}
	seen := map[string]bool{}
	each(t, "..", func(path string, file *ast.File, _ *token.FileSet) {
		room := filepath.ToSlash(filepath.Dir(path))
		if strings.HasSuffix(path, "_test.go") || !strings.HasPrefix(room, "controllers") && room != "cmd/manager" {
			return
		}
		at, known := floor[room]
		if !known {
			t.Errorf("%s is in a room that the list does not have: add it where it belongs", path)
			return
		}
		seen[room] = true
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			imported, ours := strings.CutPrefix(name, module)
			if !ours {
				continue
			}
			if to, ok := floor[imported]; !ok || to >= at {
				t.Errorf("%s imports %s, which is not above it", path, imported)
			}
			if strings.HasPrefix(room, "controllers/systems/") && strings.HasPrefix(imported, "api/") {
				t.Errorf("%s imports %s: a system knows no API of ours", path, imported)
			}
		}
	})
	for name := range floor {
		if strings.HasPrefix(name, "controllers") && !seen[name] {
			t.Errorf("the list has %s, which is not there", name)
		}
	}
}

// steps by the room and the file of their name.
var steps = map[string]string{
	"StepPlanned": "dlqreplay/plan", "StepCanaryDelivered": "dlqreplay/canary", "StepRequeued": "dlqreplay/requeue",
	"StepDelivered": "dlqreplay/deliver",
	"StepRevoked":   "keycompromise/revoke", "StepReSigned": "keycompromise/resign",
	"StepPublished":            "keycompromise/publish",
	"StepRelyingPartyNotified": "keycompromise/notify", "StepVerified": "keycompromise/verify",
	"StepCachesExpired": "keycompromise/caches",
	"StepClassified":    "incident/classify", "StepEscalated": "incident/escalation/escalate",
	"StepAcknowledged": "incident/acknowledge",
	"StepAnnounced":    "incident/notice/announce", "StepTriaged": "incident/triage",
	"StepDiagnosed": "incident/webhooks/diagnose", "StepConflictsSettled": "incident/webhooks/settle",
	"StepRelyingPartyTold": "incident/webhooks/tell", "StepRecovered": "incident/webhooks/recover",
	"StepRolledBack":     "incident/rollback/rollback",
	"StepKeyCompromised": "incident/exposure/exposure", "StepPlatformChecked": "incident/jwks/check",
	"StepMitigated": "incident/mitigate", "StepResolved": "incident/resolve",
	"StepAutoDeployRestored": "incident/rollback/autodeploy",
}

func TestEachStepHasAFileAndATestOfItsName(t *testing.T) {
	declared := map[string]bool{}
	each(t, "../api/v1alpha1", func(path string, file *ast.File, _ *token.FileSet) {
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Step") {
				declared[spec.Names[0].Name] = true
			}
			return true
		})
	})
	for name := range declared {
		if steps[name] == "" {
			t.Errorf("%s has no file in the list", name)
		}
	}
	for name, file := range steps {
		if !declared[name] {
			t.Errorf("the list has %s, which is no step", name)
		}
		for _, suffix := range []string{".go", "_test.go"} {
			if found, err := filepath.Glob(file + suffix); err != nil || len(found) != 1 {
				t.Errorf("%s: there is no %s%s", name, file, suffix)
			}
		}
	}
}

const (
	maxLines    = 500
	maxFunction = 60
	maxWidth    = 120
)

// Functions of tests are not bounded: a table is long, and reads well so. A line within a raw string is as wide as any
// other, and a marker is one line by its grammar.
func TestNothingIsTooLongToBeReadAtOnce(t *testing.T) {
	each(t, "..", func(path string, file *ast.File, set *token.FileSet) {
		text, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		if len(lines)-1 > maxLines && !strings.HasPrefix(path, "api/") {
			t.Errorf("%s has %d lines: it holds more than one thing", path, len(lines)-1)
		}
		for i, line := range lines {
			if width := utf8.RuneCountInString(line); width > maxWidth && !strings.Contains(line, "+kubebuilder:") {
				t.Errorf("%s:%d is %d characters wide", path, i+1, width)
			}
		}
		for _, declared := range file.Decls {
			function, ok := declared.(*ast.FuncDecl)
			if !ok || strings.HasSuffix(path, "_test.go") {
				continue
			}
			from, to := set.Position(function.Pos()).Line, set.Position(function.End()).Line
			if to-from > maxFunction {
				t.Errorf("%s:%d: %s has %d lines", path, from, function.Name.Name, to-from)
			}
		}
	})
}

// each parses the Go files below a folder of the repository that people write.
func each(t *testing.T, root string, visit func(path string, file *ast.File, set *token.FileSet)) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{"bin", ".git"}, entry.Name()):
			return filepath.SkipDir
		case entry.IsDir(), !strings.HasSuffix(path, ".go"), strings.HasPrefix(entry.Name(), "zz_generated"):
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		n++
		visit(strings.TrimPrefix(filepath.ToSlash(path), "../"), file, set)
		return nil
	})
	if err != nil || n == 0 {
		t.Fatalf("%d files: %v", n, err)
	}
}
