package e2e

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

const (
	// tightSagas is the environment variable that says how many sagas work at a tight cloud.
	tightSagas = "WEFT_TIGHT_SAGAS"
	// tightRate is how many calls a second that cloud allows.
	tightRate = 5
	// personWaits is how long a person waits there for the deletion of one resource.
	personWaits = 15 * time.Second
)

// TestTightCloud has many sagas work at a cloud that allows five calls a second, of which nobody told Weft. It finds out
// without a storm of refused calls, and a person who deletes one thing does not wait for the rest.
func TestTightCloud(t *testing.T) {
	t.Parallel()
	n := number(t, tightSagas, 40)
	c := newReplicated(t, []string{"a"})
	limitless(t, c.Cloud)
	c.Cloud.Hurry(t)
	nothing := c.Cloud.Inventory(t)
	c.Must(t, "create", "network", "alone", "--cloud", "lab", "--wait")
	a := c.at(t, c.replicas["a"].address)
	jobs := c.jobs(t, n, 5, "tight", "  net: {kind: Network, spec: {}}\n")
	c.Cloud.Break(t, story.Fault{Effect: "limit", Rate: tightRate, Path: "^/(compute|network|volume|image)/"})
	since, began := c.Cloud.Last(t), time.Now()
	applied := make(chan error, 1)
	go func() {
		applied <- eachOf(t.Context(), jobs, func(ctx context.Context, _ int, j *job) error { return a.apply(ctx, j) })
	}()
	story.Await(t, "the cloud refuses calls and takes others", func() bool {
		return len(refused(c.Cloud.Calls(t, since))) > 0 && c.Cloud.Inventory(t).Counts()["network.network"] > 2
	})
	asked := time.Now()
	c.Must(t, "delete", "network", "alone", "--wait")
	t.Logf("a person's deletion took %.1f s", time.Since(asked).Seconds())
	if took := time.Since(asked); took > personWaits {
		t.Errorf("a person waited %s for the deletion of one network", took)
	}
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	t.Logf("all applies were taken after %.1f s", time.Since(began).Seconds())
	a.end(t, jobs, story.Patience, allDone)
	took := time.Since(began)
	calls := c.Cloud.Calls(t, since)
	no := refused(calls)
	t.Logf("%d sagas were done after %.1f s with %d calls, of which %d were refused; at most %d in one second", n, took.Seconds(), len(calls), len(no), densest(no))
	if len(no)*4 > len(calls) {
		t.Errorf("%d of %d calls were refused: more than a quarter", len(no), len(calls))
	}
	late := slices.DeleteFunc(no, func(call story.Call) bool { return call.Time.Before(began.Add(10 * time.Second)) })
	if most := densest(late); most > 2*tightRate {
		t.Errorf("in one second %d calls were refused, after ten seconds to find out", most)
	}
	c.Cloud.Mend(t)
	each(t, jobs, func(ctx context.Context, _ int, j *job) error { return a.destroy(ctx, j) })
	a.end(t, jobs, story.Patience, allDone)
	c.NothingLeft(t, nothing)
}

// refused gives the calls that were one too many.
func refused(calls []story.Call) []story.Call {
	return slices.DeleteFunc(slices.Clone(calls), func(call story.Call) bool { return call.Status != 429 })
}

// densest counts the calls of the second with the most.
func densest(calls []story.Call) int {
	slices.SortFunc(calls, func(a, b story.Call) int { return a.Time.Compare(b.Time) })
	most, first := 0, 0
	for last := range calls {
		for calls[last].Time.Sub(calls[first].Time) >= time.Second {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}
