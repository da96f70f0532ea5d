package record

import (
	"context"
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// Change is one write of a record: at Revision of the store it was written or removed.
type Change struct {
	ID
	Revision int64
}

// Revision gives the store's revision as it stands. Follow from there misses nothing that is written from now on.
func (b *Book) Revision(ctx context.Context) (int64, error) {
	page, err := b.store.List(ctx, b.prefix+"r/", store.ListOptions{Limit: 1, KeysOnly: true})
	if err != nil {
		return 0, fault.Wrap(err, "ask for the revision of the records")
	}
	return page.Revision, nil
}

// Follow calls changed with the records that are written after a revision, by whatever replica, in the order of the
// writes, and together those that one transaction wrote. It returns nil once ctx has ended, else why it cannot go on;
// Conflict says that the revision is too old to follow from. Whoever goes on must look at all records once.
func (b *Book) Follow(ctx context.Context, revision int64, changed func([]Change)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prefix := b.prefix + "r/"
	watch := b.store.Watch(ctx, prefix, revision+1)
	for batch := range watch.Events() {
		changes := make([]Change, 0, len(batch))
		for _, e := range batch {
			if name, key, ok := strings.Cut(strings.TrimPrefix(e.Entry.Key, prefix), keyMark); ok {
				changes = append(changes, Change{ID: ID{Name: name, Key: key}, Revision: e.Entry.ModRevision})
			}
		}
		changed(changes)
	}
	return fault.Wrap(watch.Err(), "follow the records")
}
