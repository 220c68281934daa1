// Package snapshot keeps the current state of the cluster in files, so that a start reads one and the tail of the log instead of the
// whole log. A snapshot is disposable: it is the fold of the log up to a position and nothing more. One that is damaged, of another log,
// ahead of the log, or made by other code than this build folds with, is said to be unusable, removed, and made anew.
//
//	view --Offer--> Keeper --Write--> snapshots/00000000000001048576.snapshot      (temporary file, sync, rename, sync)
//	                                          |
//	start: Dir.Base  <---newest usable--------+   header, frames of objects, end
//	         |
//	         v
//	live view: objects with their places in the indexes; typed forms are made when somebody asks
package snapshot

//go:generate go run ../../internal/foldhash foldhash.go
