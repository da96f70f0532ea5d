package world

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func load(t *testing.T, j *Journal, bucket string) map[string]string {
	t.Helper()
	got := map[string]string{}
	if err := j.Load(bucket, func(id string, v []byte) error { got[id] = string(v); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestJournalKeepsTheNewestValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j", "db")
	j := open(t, path)
	for i := range 1000 {
		if err := errors.Join(j.Put("a", "x", fmt.Append(nil, i)), j.Put("a", fmt.Sprint("y", i), []byte("v")), j.Put("b", "x", nil)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 998 {
		if err := j.Delete("a", fmt.Sprint("y", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	if diff := cmp.Diff(map[string]string{"x": "999", "y998": "v", "y999": "v"}, load(t, again, "a")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"x": ""}, load(t, again, "b")); diff != "" {
		t.Error(diff)
	}
	if err := again.Put("", "x", nil); err == nil {
		t.Error("an empty bucket was taken")
	}
}

func TestJournalIsHeldByOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	if _, err := OpenJournal(path); err == nil {
		t.Error("the journal was opened twice")
	}
}

func TestResponseWaitsForTheJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	j := open(t, path)
	h := j.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := j.Put("a", "x", []byte("1")); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.written != j.queued {
			t.Error("the status line was sent before the change was written")
		}
	}))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	if rec.Code != http.StatusCreated {
		t.Errorf("status %d", rec.Code)
	}
	j.mu.Lock()
	j.broken = errors.New("disk full")
	j.mu.Unlock()
	rec = httptest.NewRecorder()
	j.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	if rec.Code != http.StatusInternalServerError {
		t.Errorf("status %d of a change that would not last", rec.Code)
	}
	j.mu.Lock()
	j.broken = nil
	j.mu.Unlock()
}

type animal struct{ Name, Kind string }

func TestTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	j := open(t, path)
	kinds := func(a *animal) []string { return []string{a.Kind} }
	table := NewTable(j, "animals", kinds)
	for i, kind := range []string{"cat", "dog", "cat", "", "dog"} {
		table.Put(fmt.Sprint(9-i), &animal{fmt.Sprint("n", i), kind})
	}
	a := table.Get("9")
	a.Kind = "dog"
	table.Put("9", a)
	table.Delete("8")
	names := func(list []*animal) (out []string) {
		for _, a := range list {
			out = append(out, a.Name)
		}
		return out
	}
	check := func(table *Table[animal]) {
		t.Helper()
		if diff := cmp.Diff([]string{"n0", "n4"}, names(table.By(0, "dog"))); diff != "" {
			t.Error(diff)
		}
		if table.Count(0, "cat") != 1 || table.Count(0, "") != 0 || table.Len() != 4 || table.Get("8") != nil {
			t.Errorf("count %d, len %d", table.Count(0, "cat"), table.Len())
		}
		var order, newest []string
		for _, a := range table.All() {
			order = append(order, a.Name)
		}
		for _, a := range table.Newest() {
			newest = append(newest, a.Name)
		}
		slices.Reverse(newest)
		if diff := cmp.Diff([]string{"n0", "n2", "n3", "n4"}, order); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(order, newest); diff != "" {
			t.Error(diff)
		}
	}
	check(table)
	again := NewTable(j, "animals", kinds)
	if err := again.Load(); err != nil {
		t.Fatal(err)
	}
	check(again)
	again.Clear()
	if again.Len() != 0 || len(load(t, j, "animals")) != 0 {
		t.Error("not cleared")
	}
}

func TestAgendaRunsInOrderOfTime(t *testing.T) {
	a := &Agenda{}
	start := time.Unix(1000, 0)
	var did []string
	note := func(what string) func(time.Time) { return func(time.Time) { did = append(did, what) } }
	a.At(start.Add(2*time.Second), note("late"))
	a.At(start.Add(time.Second), func(at time.Time) {
		did = append(did, "first")
		a.At(at.Add(500*time.Millisecond), note("follows"))
	})
	a.At(start.Add(time.Second), note("second"))
	a.Run(start)
	if len(did) != 0 {
		t.Fatalf("too early: %v", did)
	}
	a.Run(start.Add(time.Hour))
	if diff := cmp.Diff([]string{"first", "second", "follows", "late"}, did); diff != "" {
		t.Error(diff)
	}
}
