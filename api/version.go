package api

import (
	goruntime "runtime"

	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/util/compatibility"
	basecompatibility "k8s.io/component-base/compatibility"
)

// GitVersion is the version that the API tells: of the Kubernetes whose API this is.
const GitVersion = "v1.37.2+shiplog"

// effectiveVersion is upstream's, with our name in what is told.
type effectiveVersion struct {
	basecompatibility.EffectiveVersion
}

func version() basecompatibility.EffectiveVersion {
	return effectiveVersion{compatibility.DefaultBuildEffectiveVersion()}
}

// Info implements basecompatibility.EffectiveVersion.
func (v effectiveVersion) Info() *apiversion.Info {
	return &apiversion.Info{
		Major: "1", Minor: "37", EmulationMajor: "1", EmulationMinor: "37", MinCompatibilityMajor: "1", MinCompatibilityMinor: "36",
		GitVersion: GitVersion, GitTreeState: "clean", GoVersion: goruntime.Version(), Compiler: goruntime.Compiler,
		Platform: goruntime.GOOS + "/" + goruntime.GOARCH,
	}
}
