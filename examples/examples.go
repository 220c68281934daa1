// Package examples holds applications to run on a cluster. The manifests beside it name images that are built from the programs
// below it; this package knows which.
package examples

import (
	"context"

	"github.com/shiplog/shiplog/internal/testimage"
)

// Image is an image that a manifest names.
type Image struct {
	Ref     string // as in the manifests
	Archive string // the name of its archive file
	pkg     string
	version string
}

// Images lists the images of all examples.
func Images() []Image {
	const root = "github.com/shiplog/shiplog/examples/"
	return []Image{
		{Ref: "shiplog.local/store:1.0", Archive: "store-1.0.tar", pkg: root + "store", version: "1.0"},
		{Ref: "shiplog.local/web:1.0", Archive: "web-1.0.tar", pkg: root + "web", version: "1.0"},
		{Ref: "shiplog.local/web:1.1", Archive: "web-1.1.tar", pkg: root + "web", version: "1.1"},
	}
}

// Build builds the image from source and writes its archive to the file. See testimage.FromGo for what it needs.
func (i Image) Build(ctx context.Context, file string) error {
	return testimage.FromGo(ctx, i.pkg, i.Ref, file, testimage.Env("VERSION="+i.version))
}
