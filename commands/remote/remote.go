// Package remote is the bus of a component in another process, such as a node agent: its commands travel by the Kubernetes API over
// HTTP. Who acts is who the connection proves to be; why, travels in headers that the server believes to components alone.
package remote

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	restclient "k8s.io/client-go/rest"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/commands/remote/headers"
)

// Bus carries commands to an API server.
type Bus struct {
	client *restclient.RESTClient
}

var _ commands.Bus = (*Bus)(nil)

// New makes a bus over a connection. There is no limit on the client's side unless the configuration sets one.
func New(config *restclient.Config) (*Bus, error) {
	c := restclient.CopyConfig(config)
	c.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	if c.QPS == 0 && c.RateLimiter == nil {
		c.QPS = -1
	}
	if c.UserAgent == "" {
		c.UserAgent = restclient.DefaultKubernetesUserAgent()
	}
	client, err := restclient.UnversionedRESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a bus to %s: %w", config.Host, err)
	}
	return &Bus{client: client}, nil
}

// Do implements commands.Bus.
func (b *Bus) Do(ctx context.Context, c commands.Command) (commands.Result, error) {
	req, err := b.request(c)
	if err != nil {
		return commands.Result{}, err
	}
	prefix := []string{"/apis", c.Resource.Group, c.Resource.Version}
	if c.Resource.Group == "" {
		prefix = []string{"/api", c.Resource.Version}
	}
	req = req.AbsPath(prefix...).NamespaceIfScoped(c.Namespace, c.Namespace != "" && c.Resource.Resource != "namespaces").Resource(c.Resource.Resource)
	if c.Name != "" && (c.Verb != commands.Create || c.Subresource != "") {
		req = req.Name(c.Name)
	}
	if c.Subresource != "" {
		req = req.SubResource(c.Subresource)
	}
	if err := why(req, c); err != nil {
		return commands.Result{}, err
	}
	obj, err := req.Do(ctx).Get()
	if err != nil {
		return commands.Result{}, fmt.Errorf("%s %s %s/%s: %w", c.Verb, c.Resource.Resource, c.Namespace, c.Name, err)
	}
	return commands.Result{Object: obj, Position: positionOf(obj)}, nil
}

// request begins the request of a command's verb.
func (b *Bus) request(c commands.Command) (*restclient.Request, error) {
	var req *restclient.Request
	switch c.Verb {
	case commands.Create:
		req = b.client.Post().Body(c.Object)
	case commands.Update:
		req = b.client.Put().Body(c.Object)
	case commands.Patch:
		req = b.client.Patch(c.PatchType).Body(c.Patch)
		if c.Force {
			req = req.Param("force", "true")
		}
	case commands.Delete:
		req = b.client.Delete()
		opts := c.DeleteOptions
		if c.DryRun {
			if opts == nil {
				opts = &metav1.DeleteOptions{}
			}
			opts = opts.DeepCopy()
			opts.DryRun = []string{metav1.DryRunAll}
		}
		if opts != nil {
			req = req.Body(opts)
		}
		return req, nil
	default:
		return nil, apierrors.NewMethodNotSupported(c.Resource.GroupResource(), string(c.Verb))
	}
	if c.FieldManager != "" {
		req = req.Param("fieldManager", c.FieldManager)
	}
	if c.DryRun {
		req = req.Param("dryRun", metav1.DryRunAll)
	}
	return req, nil
}

// errEvidenceTooLong says that a command's evidence does not fit into a header.
var errEvidenceTooLong = errors.New("the command's evidence is too long")

// why tells in headers why a component acts.
func why(req *restclient.Request, c commands.Command) error {
	if c.Cause != nil {
		req.SetHeader(headers.Cause, c.Cause.ID)
		req.SetHeader(headers.CausePosition, strconv.FormatUint(c.Cause.Position, 10))
	}
	if c.Correlation != "" {
		req.SetHeader(headers.Correlation, c.Correlation)
	}
	if len(c.Evidence) > 0 {
		if len(c.Evidence) > headers.MaxEvidence {
			return fmt.Errorf("%s %s: %w", c.Verb, c.Resource.Resource, errEvidenceTooLong)
		}
		req.SetHeader(headers.Evidence, string(c.Evidence))
	}
	return nil
}

func positionOf(obj runtime.Object) uint64 {
	m, err := meta.Accessor(obj)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(m.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
