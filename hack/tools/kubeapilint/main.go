// Command kubeapilint checks API types against the Kubernetes API conventions. It runs the analyzers of kube-api-linter
// without golangci-lint. It lists the few places where this API departs from a convention, each with its reason.
package main

import (
	"log"
	"regexp"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/multichecker"
	"sigs.k8s.io/kube-api-linter/pkg/analysis/registry"
	"sigs.k8s.io/kube-api-linter/pkg/config"
	_ "sigs.k8s.io/kube-api-linter/pkg/registration"
)

var linters = config.Linters{
	Enable: []string{"maxlength", "minlength", "nobools", "statusoptional", "statussubresource"},
	// This linter is for built-in types. They are validated in Go, which can't tell an absent struct from a zero one.
	Disable: []string{"nonpointerstructs"},
}

var settings = config.LintersConfig{
	// Custom resources are neither sent as protobuf nor patched by strategic merge.
	"conditions":     map[string]any{"isFirstField": "Ignore", "useProtobuf": "Forbid", "usePatchStrategy": "Forbid"},
	"optionalfields": map[string]any{"pointers": map[string]any{"preference": "WhenRequired"}},
}

// accepted lists the accepted findings by their messages.
var accepted = []*regexp.Regexp{
	// Jobs, CronJobs and Flux have taught everyone spec.suspend: true.
	regexp.MustCompile(`\.Suspend pointer should not use a bool`),
	// nil means absent, also where the zero value is refused. It reads better than a comparison with zero.
	regexp.MustCompile(`does not allow the zero value\. ` +
		`(It must have the omitzero tag|The field does not need to be a pointer)`),
	// 0 means absent, as everywhere in Kubernetes: generations count from 1.
	regexp.MustCompile(`\.ObservedGeneration has a valid zero value`),
	// The linter takes a time for a struct without required fields. It is a string, and omitzero calls its IsZero.
	regexp.MustCompile(`AdminRetry\.(At|SawEnqueuedAt) (has a valid zero value|should have the omitempty tag)`),
}

func main() {
	analyzers, err := registry.DefaultRegistry().InitializeLinters(linters, settings)
	if err != nil {
		log.Fatalf("setting up the linters: %v", err)
	}
	for _, a := range analyzers {
		run := a.Run
		a.Run = func(pass *analysis.Pass) (any, error) {
			report := pass.Report
			pass.Report = func(d analysis.Diagnostic) {
				for _, re := range accepted {
					if re.MatchString(d.Message) {
						return
					}
				}
				report(d)
			}
			return run(pass)
		}
	}
	multichecker.Main(analyzers...)
}
