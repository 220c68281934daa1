package api

import (
	"fmt"
	goruntime "runtime"
	"time"

	"github.com/emicklei/go-restful/v3"
	"golang.org/x/sync/errgroup"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// minRequestTimeout is the shortest that a watch without a timeout of its own lives, in seconds; the longest is twice that.
const minRequestTimeout = 1800

// install serves the registry's groups. It does what upstream's installer does, but for the OpenAPI models, which that makes at the
// start and keeps, and but for one version after the other: making the routes is most of the work of a start.
func (s *Server) install(g *genericapiserver.Config) error {
	groups := s.registry.Groups()
	fields := newTypeConverter(groups)
	made, err := s.makeRoutes(g, groups, fields)
	if err != nil {
		return err
	}
	container := s.generic.Handler.GoRestfulContainer
	for _, info := range groups {
		group := info.PrioritizedVersions[0].Group
		prefix, discover := s.groupRoot(group)
		var versions []metav1.GroupVersionForDiscovery
		for _, gv := range info.PrioritizedVersions {
			routes, served := made[gv]
			if !served {
				continue
			}
			for _, service := range routes.services {
				container.Add(service)
			}
			discover.AddGroupVersion(group, apidiscoveryv2.APIVersionDiscovery{
				Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Version: gv.Version, Resources: routes.resources,
			})
			versions = append(versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
		}
		if group == "" {
			root := discovery.NewLegacyRootAPIHandler(g.DiscoveryAddresses, g.Serializer, prefix)
			wrapped := aggregated.WrapAggregatedDiscoveryToHandler(root, discover, discover)
			container.Add(wrapped.GenerateWebService(prefix, metav1.APIVersions{}))
			continue
		}
		api := metav1.APIGroup{Name: group, Versions: versions, PreferredVersion: versions[0]}
		s.generic.DiscoveryGroupManager.AddGroup(api)
		container.Add(discovery.NewAPIGroupHandler(g.Serializer, api).WebService())
	}
	return nil
}

func (s *Server) groupRoot(group string) (prefix string, discover aggregated.ResourceManager) {
	if group == "" {
		return genericapiserver.DefaultLegacyAPIPrefix, s.generic.AggregatedLegacyDiscoveryGroupManager
	}
	return genericapiserver.APIGroupPrefix, s.generic.AggregatedDiscoveryGroupManager
}

// versionRoutes are what a version of a group is served by.
type versionRoutes struct {
	services  []*restful.WebService
	resources []apidiscoveryv2.APIResourceDiscovery
}

// makeRoutes makes the routes of the versions that have resources, side by side.
func (s *Server) makeRoutes(g *genericapiserver.Config, groups []*genericapiserver.APIGroupInfo, fields managedfields.TypeConverter) (map[schema.GroupVersion]*versionRoutes, error) {
	made := map[schema.GroupVersion]*versionRoutes{}
	var making errgroup.Group
	making.SetLimit(goruntime.GOMAXPROCS(0))
	for _, info := range groups {
		prefix, _ := s.groupRoot(info.PrioritizedVersions[0].Group)
		for _, gv := range info.PrioritizedVersions {
			if len(info.VersionedResourcesStorageMap[gv.Version]) == 0 {
				continue
			}
			r := &versionRoutes{}
			made[gv] = r
			making.Go(func() error {
				container := restful.NewContainer()
				resources, _, err := s.groupVersion(g, info, gv, prefix, fields).InstallREST(container)
				if err != nil {
					return fmt.Errorf("installing %s: %w", gv, err)
				}
				r.services, r.resources = container.RegisteredWebServices(), resources
				return nil
			})
		}
	}
	return made, making.Wait()
}

func (s *Server) groupVersion(g *genericapiserver.Config, info *genericapiserver.APIGroupInfo, gv schema.GroupVersion, prefix string,
	fields managedfields.TypeConverter,
) *genericapi.APIGroupVersion {
	served := map[string][]string{}
	for version, stores := range info.VersionedResourcesStorageMap {
		for path := range stores {
			served[path] = append(served[path], schema.GroupVersion{Group: gv.Group, Version: version}.String())
		}
	}
	return &genericapi.APIGroupVersion{
		Root: prefix, Storage: info.VersionedResourcesStorageMap[gv.Version], GroupVersion: gv, AllServedVersionsByResource: served,
		MetaGroupVersion: info.MetaGroupVersion, OptionsExternalVersion: info.OptionsExternalVersion,
		ParameterCodec: info.ParameterCodec, Serializer: info.NegotiatedSerializer,
		Creater: info.Scheme, Convertor: info.Scheme, ConvertabilityChecker: info.Scheme, Defaulter: info.Scheme, Typer: info.Scheme,
		UnsafeConvertor: runtime.UnsafeObjectConvertor(info.Scheme), Namer: runtime.Namer(meta.NewAccessor()),
		EquivalentResourceRegistry: g.EquivalentResourceRegistry, TypeConverter: fields,
		Admit: g.AdmissionControl, MinRequestTimeout: minRequestTimeout * time.Second, Authorizer: g.Authorization.Authorizer,
		MaxRequestBodyBytes: g.MaxRequestBodyBytes,
	}
}
