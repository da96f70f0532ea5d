package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// weft is the program that is everything in one process.
const weft = "github.com/weftcloud/weft/services/weft/cmd/weft"

// build builds programs with their points; what names them may begin with flags.
func build(path string, programs ...string) error {
	out, err := exec.Command("go", append([]string{"build", "-tags", "crash", "-o", path}, programs...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %v: %w\n%s", programs, err, out)
	}
	return nil
}

// change replaces a text of a source file, which must be there just once.
type change struct{ file, old, new string }

// root is where the sources are, seen from this package's folder.
var root = filepath.Join("..", "..", "..")

// buildBroken builds the program from changed copies of sources, which it makes in dir. The sources stay as they are.
func buildBroken(dir string, changes []change) (string, error) {
	replace := map[string]string{}
	for i, c := range changes {
		path, err := filepath.Abs(filepath.Join(root, filepath.FromSlash(c.file)))
		if err != nil {
			return "", err
		}
		from := path
		if copied, ok := replace[path]; ok {
			from = copied
		}
		source, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if n := strings.Count(string(source), c.old); n != 1 {
			return "", fmt.Errorf("%s has the text that is to be broken %d times, want once; adapt broken_test.go:\n%s", c.file, n, c.old)
		}
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replace[path], []byte(strings.Replace(string(source), c.old, c.new, 1)), 0o600); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "weft")
	return path, build(path, "-overlay", filepath.Join(dir, "overlay.json"), weft)
}
