package playbook

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// maxRequest is how many bytes of a request the status can keep.
const maxRequest = 256

// Request is the value of the annotation by which a person asks the object to go on. Without the annotation, it is the
// last value that was acted on.
func Request(obj Object) string {
	value := obj.GetAnnotations()[v1alpha1.AnnotationRequestedAt]
	if value == "" {
		_, handled := obj.Observed()
		return *handled
	}
	return strings.ToValidUTF8(value[:min(len(value), maxRequest)], "")
}

// Asked says whether a person asked the stalled object to go on.
func Asked(obj Object) bool {
	_, handled := obj.Observed()
	return Stalled(obj) && Request(obj) != *handled
}

// ResumeCommand is the command that lets a stalled object go on. resource is its kind in kubectl's words.
func ResumeCommand(obj client.Object, resource string) string {
	return fmt.Sprintf("kubectl -n %s annotate %s %s --overwrite %s=$(date +%%FT%%T)",
		obj.GetNamespace(), resource, obj.GetName(), v1alpha1.AnnotationRequestedAt)
}

// Digest is the digest of what an object asks for. Approvals and the ledger use it.
func Digest(spec any) (string, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("computing the digest of the spec: %w", err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(text)), nil
}
