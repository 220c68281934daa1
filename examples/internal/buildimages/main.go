// Buildimages builds the examples' images from source into archives that `shiplog image load` takes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/shiplog/shiplog/examples"
)

func main() {
	out := flag.String("o", "bin/images", "the directory to write the archives to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	images := examples.Images()
	for i, image := range images {
		file := filepath.Join(dir, image.Archive)
		fmt.Printf("[%d/%d] building %s ... ", i+1, len(images), image.Ref)
		start := time.Now()
		if err := image.Build(ctx, file); err != nil {
			fmt.Println("failed")
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			fmt.Println("failed")
			return fmt.Errorf("looking at what was built: %w", err)
		}
		fmt.Printf("%s, %.1f MB, %.1f s\n", file, float64(info.Size())/1e6, time.Since(start).Seconds())
	}
	return nil
}
