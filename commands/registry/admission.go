package registry

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
	kubeadmission "k8s.io/kubernetes/pkg/kubeapiserver/admission"
	"k8s.io/kubernetes/pkg/kubeapiserver/admission/exclusion"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
	certapproval "k8s.io/kubernetes/plugin/pkg/admission/certificates/approval"
	certsigning "k8s.io/kubernetes/plugin/pkg/admission/certificates/signing"
	certsubject "k8s.io/kubernetes/plugin/pkg/admission/certificates/subjectrestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
	"k8s.io/kubernetes/plugin/pkg/admission/network/defaultingressclass"
	"k8s.io/kubernetes/plugin/pkg/admission/noderestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/nodetaint"
	"k8s.io/kubernetes/plugin/pkg/admission/podtopologylabels"
	podpriority "k8s.io/kubernetes/plugin/pkg/admission/priority"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"
	"k8s.io/kubernetes/plugin/pkg/admission/security/podsecurity"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/persistentvolume/resize"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageclass/setdefault"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageobjectinuseprotection"
)

// ordered lists the admission plugins in the order in which they see a change, upstream's order. README.md says which of
// upstream's defaults are missing, and why.
var ordered = []string{
	lifecycle.PluginName,
	limitranger.PluginName,
	serviceaccount.PluginName,
	noderestriction.PluginName,
	nodetaint.PluginName,
	podsecurity.PluginName,
	podpriority.PluginName,
	defaulttolerationseconds.PluginName,
	setdefault.PluginName,
	storageobjectinuseprotection.PluginName,
	resize.PluginName,
	runtimeclass.PluginName,
	certapproval.PluginName,
	certsigning.PluginName,
	certsubject.PluginName,
	defaultingressclass.PluginName,
	podtopologylabels.PluginName,
	mutatingwebhook.PluginName,
	validatingpolicy.PluginName,
	validatingwebhook.PluginName,
	resourcequota.PluginName,
}

func plugins() *admission.Plugins {
	p := admission.NewPlugins()
	lifecycle.Register(p)
	limitranger.Register(p)
	serviceaccount.Register(p)
	noderestriction.Register(p)
	nodetaint.Register(p)
	podsecurity.Register(p)
	podpriority.Register(p)
	defaulttolerationseconds.Register(p)
	setdefault.Register(p)
	storageobjectinuseprotection.Register(p)
	resize.Register(p)
	runtimeclass.Register(p)
	certapproval.Register(p)
	certsigning.Register(p)
	certsubject.Register(p)
	defaultingressclass.Register(p)
	podtopologylabels.Register(p)
	mutatingwebhook.Register(p)
	validatingpolicy.Register(p)
	validatingwebhook.Register(p)
	resourcequota.Register(p)
	return p
}

// chain is the admission chain.
type chain struct {
	admission.MutationInterface
	admission.ValidationInterface
}

// Handles implements admission.Interface.
func (c *chain) Handles(op admission.Operation) bool { return c.MutationInterface.Handles(op) }

// makeAdmission makes the chain. Its plugins read the live view (package informers) and keep nothing of their own.
func (r *Registry) makeAdmission() (*chain, error) {
	client, err := kubernetes.NewForConfig(r.cfg.Loopback)
	if err != nil {
		return nil, fmt.Errorf("making the loopback client: %w", err)
	}
	dyn, err := dynamic.NewForConfig(r.cfg.Loopback)
	if err != nil {
		return nil, fmt.Errorf("making the dynamic loopback client: %w", err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	quotas, err := quotainstall.NewQuotaConfigurationForAdmission(r.cfg.Informers, r.resources)
	if err != nil {
		return nil, fmt.Errorf("making the quota evaluators: %w", err)
	}
	inits := admission.PluginInitializers{
		initializer.New(client, dyn, r.cfg.Informers, r.cfg.Authorizer, utilfeature.DefaultFeatureGate,
			compatibility.DefaultBuildEffectiveVersion(), r.cfg.Stop, mapper),
		webhookinit.NewPluginInitializer(webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, r.cfg.Loopback, nil),
			&serviceAddresses{r.cfg.Engine.Live()}),
		kubeadmission.NewPluginInitializer(),
		quotaInitializer{quotas, exclusion.Excluded()},
	}
	all := plugins()
	var mutating []admission.MutationInterface
	var validating []admission.ValidationInterface
	for _, name := range ordered {
		p, err := all.InitPlugin(name, nil, inits)
		if err != nil {
			return nil, fmt.Errorf("making the admission plugin %s: %w", name, err)
		}
		if m, ok := p.(admission.MutationInterface); ok {
			mutating = append(mutating, m)
		}
		if v, ok := p.(admission.ValidationInterface); ok {
			validating = append(validating, v)
		}
	}
	return &chain{mutators(mutating), validators(validating)}, nil
}

type mutators []admission.MutationInterface

// Admit implements admission.MutationInterface.
func (m mutators) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	for _, p := range m {
		if p.Handles(a.GetOperation()) {
			if err := p.Admit(ctx, a, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// Handles implements admission.Interface.
func (m mutators) Handles(op admission.Operation) bool { return op != "" }

type validators []admission.ValidationInterface

// Validate implements admission.ValidationInterface.
func (v validators) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	for _, p := range v {
		if p.Handles(a.GetOperation()) {
			if err := p.Validate(ctx, a, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// Handles implements admission.Interface.
func (v validators) Handles(op admission.Operation) bool { return op != "" }

// quotaInitializer gives plugins what only the built-in kinds need.
type quotaInitializer struct {
	quotas   quota.Configuration
	excluded []schema.GroupResource
}

// Initialize implements admission.PluginInitializer.
func (q quotaInitializer) Initialize(p admission.Interface) {
	if wants, ok := p.(initializer.WantsQuotaConfiguration); ok {
		wants.SetQuotaConfiguration(q.quotas)
	}
	if wants, ok := p.(initializer.WantsExcludedAdmissionResources); ok {
		wants.SetExcludedAdmissionResources(q.excluded)
	}
}
