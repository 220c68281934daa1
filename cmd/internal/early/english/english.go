// Package english spares programs that embed kubectl the translations of its messages. kubectl's packages read them while they are
// initialised, whatever the program then does, which takes longer than all else before main. Like package early, this one is ahead of
// them.
package english

import (
	"os"

	"k8s.io/kubectl/pkg/util/i18n"
)

// init leaves the messages as they stand in kubectl's source, which is in English, unless kubectl is what was asked for. kubectl has no
// other door for this, and its documentation wants it in an init.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "kubectl" {
		return
	}
	if err := i18n.SetLoadTranslationsFunc(func() error { return nil }); err != nil {
		panic(err) // somebody's initialisation has come first: see package early
	}
}
