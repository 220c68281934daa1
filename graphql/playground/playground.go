// Package playground is the page on which people try GraphQL queries. Everything it needs is in the binary.
package playground

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed assets
var files embed.FS

// policy keeps the page to itself: it loads nothing from elsewhere and runs no code but its own.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// prefix is where the page's files are: beneath the address of GraphQL itself, so that whoever hands that on hands on all.
const prefix = "/graphql/assets/"

// Handler serves the page at any path, and its files under /graphql/assets/.
func Handler() http.Handler {
	assets, err := fs.Sub(files, "assets")
	if err != nil {
		return http.NotFoundHandler() // cannot be: the folder is embedded
	}
	static := http.StripPrefix(prefix, http.FileServerFS(assets))
	mux := http.NewServeMux()
	mux.Handle(prefix, headers(static))
	mux.Handle("/", headers(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		http.ServeFileFS(w, r, assets, "page.html")
	})))
	return mux
}

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}
