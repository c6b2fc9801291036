package platform

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// Signals is what the probes of a Platform say together. The zero Signals is a Platform that is not probed, or not yet: nothing of
// it is known.
type Signals struct {
	// Each signal by its condition.
	Each []Signal
	// Severity that they amount to by the playbook's table; empty while none is bad.
	Severity v1alpha1.Severity
	// Because says what is bad, in a few words; empty while nothing is.
	Because string
	// BadSince is the first bad sample of what is bad now; zero while nothing is.
	BadSince time.Time
	// ClearSince is since when every signal is good; zero while one is bad or unknown.
	ClearSince time.Time
	// Down says that relying parties' users are kept out: /up, tokens or JWKS are bad.
	Down bool
}

// Signal is one of a Platform's signals.
type Signal struct {
	// Condition of the Platform that reports it.
	Condition string
	// State is True where it is good, False where it is bad, and Unknown.
	State metav1.ConditionStatus
	// Severity that it has while it is bad.
	Severity v1alpha1.Severity
	// Message says what was seen.
	Message string
	// Since is the first sample of this state.
	Since time.Time
}
