package canary

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestInBytes(t *testing.T) {
	const value = "canary-0123456789abcdef"
	for shift := range 7 {
		before := "xxxxxxx"[:shift]
		inner := base64.StdEncoding.EncodeToString([]byte(before + value + "yy"))
		for name, text := range map[string]string{
			"plain": before + value, "hex": hex.EncodeToString([]byte(before + value)), "base64": inner,
			"base64 in JSON in base64": base64.StdEncoding.EncodeToString(fmt.Appendf(nil, `{"a":%q}%s`, inner, before)),
		} {
			if len(InBytes([]string{value}, "here", []byte(text))) != 1 {
				t.Errorf("not found in %s after %d: %s", name, shift, text)
			}
		}
	}
	if found := InBytes([]string{value}, "here", []byte("canary-0123456789abcdeX")); found != nil {
		t.Errorf("found %v", found)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := InFiles([]string{value}, dir); err != nil || len(found) != 1 {
		t.Errorf("in files: %v, %v", found, err)
	}
}
