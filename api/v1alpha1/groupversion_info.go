// Package v1alpha1 is the contract of the playbooks: what a person or Git may ask for, and what the controllers report.
//
// +kubebuilder:object:generate=true
// +groupName=playbook.1pass.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "playbook.1pass.dev", Version: "v1alpha1"}

// SchemeBuilder collects the functions that register the kinds.
var SchemeBuilder = runtime.NewSchemeBuilder(func(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&Platform{}, &PlatformList{},
		&DLQReplay{}, &DLQReplayList{},
		&KeyCompromise{}, &KeyCompromiseList{},
		&Incident{}, &IncidentList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
})

// AddToScheme registers the kinds of this package with a scheme.
var AddToScheme = SchemeBuilder.AddToScheme
