// Package docs holds the documents at the root to the code: the files, targets, tests and commands that they name exist.
package docs

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftcloud/weft/services/weft/internal/cli"
)

const root = "../../../.."

// documents are those that are held to the code.
var documents = []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "deploy/examples/README.md", "deploy/e2e/SCENARIOS.md"}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// each calls check with every first group that a pattern finds in the documents, and fails if it finds none at all.
func each(t *testing.T, pattern string, check func(t *testing.T, document, found string)) {
	t.Helper()
	expression, total := regexp.MustCompile(pattern), 0
	for _, d := range documents {
		for _, m := range expression.FindAllStringSubmatch(read(t, d), -1) {
			total++
			check(t, d, m[1])
		}
	}
	if total == 0 {
		t.Errorf("nothing in the documents looks like %s: this test tests nothing", pattern)
	}
}

func TestFilesExist(t *testing.T) {
	must := func(t *testing.T, document, path string) {
		if strings.ContainsAny(path, "<…") {
			return // a pattern, not a path
		}
		if found, err := filepath.Glob(filepath.Join(root, path)); err != nil || len(found) == 0 {
			t.Errorf("%s names %s, which does not exist", document, path)
		}
	}
	each(t, "`((?:proto|pkg|services|deploy|scripts)/[^` ]*)`", must)
	each(t, `\]\(([^):#]+)\)`, func(t *testing.T, document, path string) {
		must(t, document, filepath.Join(filepath.Dir(document), path))
	})
}

func TestTestsExist(t *testing.T) {
	known := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(data), -1) {
			known[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	each(t, "`(Test[A-Z]\\w+)`", func(t *testing.T, document, name string) {
		if !known[name] {
			t.Errorf("%s names the test %s, which does not exist", document, name)
		}
	})
}

func TestTargetsExist(t *testing.T) {
	makefile := read(t, "Makefile")
	each(t, "(?m)(?:`|^\\$ )make ([a-z-]+)", func(t *testing.T, document, target string) {
		if !strings.Contains(makefile, "\n"+target+": ") {
			t.Errorf("%s names make %s, which is no target", document, target)
		}
	})
	if n := strings.Count(makefile, " ## "); n > 14 {
		t.Errorf("make help lists %d targets; more than 14 are not read", n)
	}
}

// TestCommandsExist asks each command line of the documents for its help, which wants its command and its flags to exist.
func TestCommandsExist(t *testing.T) {
	each(t, "(?m)(?:`|^\\$ )weft ([a-z][^`#\\n]*)", func(t *testing.T, document, line string) {
		args := strings.Fields(strings.NewReplacer("[", "", "]", "", "…", "").Replace(line))
		help, code := ask(args)
		if code != 0 {
			t.Errorf("%s: weft %s: exit code %d: %s", document, line, code, help)
			return
		}
		usage := strings.Fields(help[strings.Index(help, "Usage:")+len("Usage:"):])[1:]
		for i, word := range args {
			if strings.HasPrefix(word, "-") || word == strings.ToUpper(word) || i >= len(usage) || usage[i] == strings.ToUpper(usage[i]) {
				break // the rest are arguments and flags
			}
			if usage[i] != word {
				t.Errorf("%s: weft %s: there is no command %q; the nearest is weft %s", document, line, word, strings.Join(usage[:i], " "))
				break
			}
		}
	})
}

func ask(args []string) (text string, code int) {
	out := &bytes.Buffer{}
	code = cli.Execute(context.Background(), cli.Process{
		Args: append(slices.Clone(args), "--help"), In: &bytes.Buffer{}, Out: out, Err: out, Getenv: func(string) string { return "" },
		Size: func() (int, int) { return 200, 50 }, Now: time.Now, Dev: func(context.Context, cli.DevConfig) error { return fmt.Errorf("not here") },
	})
	return out.String(), code
}
