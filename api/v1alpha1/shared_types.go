package v1alpha1

// PlatformReference names a Platform of the object's own namespace.
type PlatformReference struct {
	// name of the Platform.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// SecretReference names a Secret of the object's own namespace. The Secret must carry the label
// playbook.1pass.dev/platform with the Platform's name as its value, or it is not read.
type SecretReference struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// Approval lets one step go ahead with exactly what its digest stands for.
type Approval struct {
	// step is the condition that waits.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Step string `json:"step,omitempty"`

	// digest of what is approved, as the waiting condition shows it.
	// +required
	// +kubebuilder:validation:Pattern=`^sha256:[0-9a-f]{64}$`
	// +kubebuilder:validation:MaxLength=71
	// +kubebuilder:validation:MinLength=1
	Digest string `json:"digest,omitempty"`

	// by names who approved, for the record.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	By string `json:"by,omitempty"`
}
