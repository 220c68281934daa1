package containers

import (
	"os"
	"strings"
)

// How much of a log's end is a termination message, as Kubernetes has it.
const (
	lastWordsBytes = 2048
	lastWordsLines = 80
)

// lastWords returns the end of a log in the CRI format, without the format.
func lastWords(logPath string) string {
	f, err := os.Open(logPath)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	// The format's own words take room: read more than is kept.
	from := max(0, info.Size()-4*lastWordsBytes-64<<10)
	buf := make([]byte, info.Size()-from)
	n, _ := f.ReadAt(buf, from)
	text := string(buf[:n])
	if from > 0 {
		_, text, _ = strings.Cut(text, "\n")
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(parts) < 4 {
			continue
		}
		b.WriteString(parts[3])
		if parts[2] == "F" {
			b.WriteByte('\n')
		}
	}
	lines := strings.SplitAfter(b.String(), "\n")
	lines = lines[max(0, len(lines)-lastWordsLines-1):]
	out := strings.Join(lines, "")
	return strings.ToValidUTF8(out[max(0, len(out)-lastWordsBytes):], "�")
}
