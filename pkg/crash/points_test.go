package crash_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weftcloud/weft/pkg/crash"
)

// TestPointsArePlaced holds the list of points against the source: each constant is listed, and stands at exactly one place.
func TestPointsArePlaced(t *testing.T) {
	names := constants(t)
	var listed []crash.Name
	for _, n := range names {
		listed = append(listed, n)
	}
	got := crash.Points()
	slices.Sort(listed)
	slices.Sort(got)
	if !slices.Equal(listed, got) {
		t.Errorf("Points gives %v; the constants are %v", got, listed)
	}
	places := placed(t, filepath.Join("..", ".."))
	for constant, name := range names {
		if n := len(places[constant]); n != 1 {
			t.Errorf("%s (%s) stands at %d places, want one: %v", constant, name, n, places[constant])
		}
		delete(places, constant)
	}
	for constant, at := range places {
		t.Errorf("crash.Point(%s) at %v is not one of the points' constants", constant, at)
	}
}

// constants gives the constants of type Name by their names in Go.
func constants(t *testing.T) map[string]crash.Name {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "points.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]crash.Name{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Name" {
			out[spec.Names[0].Name] = crash.Name(strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
		}
		return true
	})
	return out
}

// placed finds every call of Point below a folder, by what it is given.
func placed(t *testing.T, root string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "node_modules", "gen", "crash"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(source), "crash.Point(") {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Point" && isCrash(f.X) {
				what := "something that is no constant of package crash"
				if arg, ok := call.Args[0].(*ast.SelectorExpr); ok && isCrash(arg.X) {
					what = arg.Sel.Name
				}
				out[what] = append(out[what], set.Position(call.Pos()).String())
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func isCrash(x ast.Expr) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == "crash"
}
