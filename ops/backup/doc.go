// Package backup writes a log into a file and makes a log of such files again. A backup is everything up to a position that is
// read at its beginning; since a log is only ever appended to, it is consistent while writers go on. The format, which needs no
// seeking in either direction, is described in README.md.
package backup
