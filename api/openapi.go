package api

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	openapiutil "k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	generatedopenapi "k8s.io/kubernetes/pkg/generated/openapi"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// openAPIIdle is how long the OpenAPI documents are kept after somebody asked for them. They are by far the largest things that the
// API has in memory, and few ask.
const openAPIIdle = 2 * time.Minute

func definitions() common.GetOpenAPIDefinitions {
	return openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generatedopenapi.GetOpenAPIDefinitions)
}

func openAPIV3() *common.OpenAPIV3Config {
	c := genericapiserver.DefaultOpenAPIV3Config(definitions(), openapinamer.NewDefinitionNamer(legacyscheme.Scheme))
	c.Info.Title, c.Info.Version = "Kubernetes", GitVersion
	return c
}

func openAPIV2() *common.Config {
	c := genericapiserver.DefaultOpenAPIConfig(definitions(), openapinamer.NewDefinitionNamer(legacyscheme.Scheme))
	c.Info = &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: GitVersion}}
	return c
}

// documents serves OpenAPI documents that are built when somebody asks for them, and forgotten when nobody has for a while.
type documents struct {
	build func(*mux.PathRecorderMux)

	mu      sync.Mutex
	built   http.Handler
	expires *time.Timer
}

// ServeHTTP implements http.Handler.
func (d *documents) ServeHTTP(w http.ResponseWriter, r *http.Request) { d.handler().ServeHTTP(w, r) }

func (d *documents) handler() http.Handler {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.built == nil {
		m := mux.NewPathRecorderMux("openapi")
		d.build(m)
		d.built = m
	}
	if d.expires == nil {
		d.expires = time.AfterFunc(openAPIIdle, d.forget)
	} else {
		d.expires.Reset(openAPIIdle)
	}
	return d.built
}

func (d *documents) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.built = nil
}

// serveOpenAPI mounts the documents.
func (s *Server) serveOpenAPI() {
	container := s.generic.Handler.GoRestfulContainer
	v2 := &documents{build: func(m *mux.PathRecorderMux) { routes.OpenAPI{Config: openAPIV2()}.InstallV2(container, m) }}
	v3 := &documents{build: func(m *mux.PathRecorderMux) { routes.OpenAPI{V3Config: openAPIV3()}.InstallV3(container, m) }}
	to := s.generic.Handler.NonGoRestfulMux
	to.Handle("/openapi/v2", v2)
	to.Handle("/openapi/v3", v3)
	to.HandlePrefix("/openapi/v3/", v3)
}

// typeConverter knows the fields of all served kinds, for the bookkeeping of who manages which. It is made at the first write by
// HTTP, from the OpenAPI definitions, which are then forgotten.
type typeConverter struct {
	groups []*genericapiserver.APIGroupInfo
	made   func() (managedfields.TypeConverter, error)
}

func newTypeConverter(groups []*genericapiserver.APIGroupInfo) *typeConverter {
	t := &typeConverter{groups: groups}
	t.made = sync.OnceValues(t.make)
	return t
}

func (t *typeConverter) make() (managedfields.TypeConverter, error) {
	var names []string
	for _, g := range t.groups {
		for _, gv := range g.PrioritizedVersions {
			for path, store := range g.VersionedResourcesStorageMap[gv.Version] {
				kind, err := genericapi.GetResourceKind(gv, store, g.Scheme)
				if err != nil {
					return nil, fmt.Errorf("finding the kind of %s in %s: %w", path, gv, err)
				}
				sample, err := g.Scheme.New(kind)
				if err != nil {
					return nil, fmt.Errorf("making a %s: %w", kind, err)
				}
				names = append(names, openapiutil.GetCanonicalTypeName(sample))
			}
		}
	}
	models, err := builder3.BuildOpenAPIDefinitionsForResources(openAPIV3(), names...)
	if err != nil {
		return nil, fmt.Errorf("building the models of the served kinds: %w", err)
	}
	c, err := managedfields.NewTypeConverter(models, false)
	if err != nil {
		return nil, fmt.Errorf("reading the models of the served kinds: %w", err)
	}
	return c, nil
}

// ObjectToTyped implements managedfields.TypeConverter.
func (t *typeConverter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	c, err := t.made()
	if err != nil {
		return nil, err
	}
	return c.ObjectToTyped(obj, opts...)
}

// TypedToObject implements managedfields.TypeConverter.
func (t *typeConverter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	c, err := t.made()
	if err != nil {
		return nil, err
	}
	return c.TypedToObject(v)
}
