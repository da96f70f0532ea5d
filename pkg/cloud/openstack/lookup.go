package openstack

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"

	"github.com/weftcloud/weft/pkg/fault"
)

// keepFor is how long a look-up of what the cloud offers is believed. Flavors, images and external networks change
// rarely, and a create that relies on an old answer is refused by the cloud itself.
const keepFor = time.Minute

// recent is how old what a check is held to may be: requests that come together look together. What a create is then refused
// for because it changed in between it would also be refused for had it changed a moment later.
const recent = 2 * time.Second

// lookups remembers what the cloud offers.
type lookups struct {
	now      func() time.Time
	flavors  remembered[flavors.Flavor]
	images   remembered[images.Image]
	networks remembered[networks.Network]
	others   sync.Map // by name, see Recent
}

// remembered is one list and its age.
type remembered[T any] struct {
	mu    sync.Mutex
	at    time.Time
	items []T
}

// get gives the list, read again if it is old or fresh is asked for.
func (r *remembered[T]) get(now func() time.Time, fresh bool, read func() ([]T, error)) ([]T, error) {
	within := keepFor
	if fresh {
		within = 0
	}
	return r.within(now, within, read)
}

// within gives the list, read again if it is older than age.
func (r *remembered[T]) within(now func() time.Time, age time.Duration, read func() ([]T, error)) ([]T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.at.IsZero() && now().Sub(r.at) < age {
		return r.items, nil
	}
	items, err := read()
	if err != nil {
		return nil, err
	}
	r.items, r.at = items, now()
	return items, nil
}

// Flavors lists the flavors that the project may use. fresh asks the cloud even if the list is remembered.
func (s *Session) Flavors(ctx context.Context, fresh bool) ([]flavors.Flavor, error) {
	return s.lookups.flavors.get(s.lookups.now, fresh, s.readFlavors(ctx))
}

func (s *Session) readFlavors(ctx context.Context) func() ([]flavors.Flavor, error) {
	return func() ([]flavors.Flavor, error) {
		c, err := s.Compute(ctx)
		if err != nil {
			return nil, err
		}
		return List[flavors.Flavor](ctx, c, "flavors/detail", "flavors", nil)
	}
}

// Images lists the images that the project may use. fresh asks the cloud even if the list is remembered.
func (s *Session) Images(ctx context.Context, fresh bool) ([]images.Image, error) {
	return s.lookups.images.get(s.lookups.now, fresh, s.readImages(ctx))
}

func (s *Session) readImages(ctx context.Context) func() ([]images.Image, error) {
	return func() ([]images.Image, error) {
		c, err := s.Image(ctx)
		if err != nil {
			return nil, err
		}
		pages, err := images.List(c, images.ListOpts{}).AllPages(ctx)
		if err != nil {
			return nil, Fault(err, "list images")
		}
		all, err := images.ExtractImages(pages)
		return all, Fault(err, "list images: read the answer")
	}
}

// ExternalNetworks lists the networks that lead outside. fresh asks the cloud even if the list is remembered.
func (s *Session) ExternalNetworks(ctx context.Context, fresh bool) ([]networks.Network, error) {
	return s.lookups.networks.get(s.lookups.now, fresh, s.readExternalNetworks(ctx))
}

func (s *Session) readExternalNetworks(ctx context.Context) func() ([]networks.Network, error) {
	return func() ([]networks.Network, error) {
		c, err := s.Network(ctx)
		if err != nil {
			return nil, err
		}
		return List[networks.Network](ctx, c, "networks", "networks", url.Values{"router:external": {"true"}})
	}
}

// Offers makes what is remembered of flavors and images be no older than a moment, so that a check can be held to it.
func (s *Session) Offers(ctx context.Context) error {
	if _, err := s.lookups.flavors.within(s.lookups.now, recent, s.readFlavors(ctx)); err != nil {
		return err
	}
	_, err := s.lookups.images.within(s.lookups.now, recent, s.readImages(ctx))
	return err
}

// Recent gives a list of something else that the cloud offers, called name, as it was a moment ago at most.
func Recent[T any](s *Session, name string, read func() ([]T, error)) ([]T, error) {
	kept, _ := s.lookups.others.LoadOrStore(name, &remembered[T]{})
	list, ok := kept.(*remembered[T])
	if !ok {
		return read() // another type goes by that name
	}
	return list.within(s.lookups.now, recent, read)
}

// Outside makes what is remembered of external networks be no older than a moment, so that a check can be held to it.
func (s *Session) Outside(ctx context.Context) error {
	_, err := s.lookups.networks.within(s.lookups.now, recent, s.readExternalNetworks(ctx))
	return err
}

// Flavor finds a flavor by name or id. The error is Invalid, in field, if there is none, and lists close names. What is
// not in the remembered list is looked for once more at the cloud.
func (s *Session) Flavor(ctx context.Context, field, ref string, fresh bool) (flavors.Flavor, error) {
	return find(ctx, s.Flavors, fresh, choice[flavors.Flavor]{
		what: "flavor", field: field, ref: ref,
		id: func(f flavors.Flavor) string { return f.ID }, name: func(f flavors.Flavor) string { return f.Name },
	})
}

// ImageByRef finds an image by name or id; the rest is as with Flavor. A name that several images bear is Invalid, with their
// ids.
func (s *Session) ImageByRef(ctx context.Context, field, ref string, fresh bool) (images.Image, error) {
	return find(ctx, s.Images, fresh, choice[images.Image]{
		what: "image", field: field, ref: ref,
		id: func(i images.Image) string { return i.ID }, name: func(i images.Image) string { return i.Name },
	})
}

// ExternalNetwork finds an external network by name or id; the rest is as with Flavor. An empty ref means the only one
// that there is; if there are several, the error names them.
func (s *Session) ExternalNetwork(ctx context.Context, field, ref string, fresh bool) (networks.Network, error) {
	c := choice[networks.Network]{
		what: "external network", field: field, ref: ref,
		id: func(n networks.Network) string { return n.ID }, name: func(n networks.Network) string { return n.Name },
	}
	if ref != "" {
		return find(ctx, s.ExternalNetworks, fresh, c)
	}
	all, err := s.ExternalNetworks(ctx, fresh)
	if err != nil {
		return networks.Network{}, err
	}
	if len(all) == 1 {
		return all[0], nil
	}
	if len(all) == 0 {
		return networks.Network{}, fault.InField(field, "%s has no external network", s.Account)
	}
	return networks.Network{}, fault.InField(field, "%s has several external networks; name one of %s", s.Account, strings.Join(c.names(all), ", "))
}

// choice is one thing that is looked for among what a cloud offers.
type choice[T any] struct {
	what, field, ref string
	id, name         func(T) string
}

func (c choice[T]) names(all []T) []string {
	out := make([]string, 0, len(all))
	for _, item := range all {
		out = append(out, c.name(item))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// find looks in the remembered list, then at the cloud.
func find[T any](ctx context.Context, list func(context.Context, bool) ([]T, error), fresh bool, c choice[T]) (T, error) {
	var none T
	all, err := list(ctx, fresh)
	if err != nil {
		return none, err
	}
	found, err := c.in(all)
	if err == nil || fresh {
		return found, err
	}
	if all, err = list(ctx, true); err != nil {
		return none, err
	}
	return c.in(all)
}

// in finds the thing by id, else by name.
func (c choice[T]) in(all []T) (T, error) {
	var none T
	var named []T
	for _, item := range all {
		if c.id(item) == c.ref {
			return item, nil
		}
		if c.name(item) == c.ref {
			named = append(named, item)
		}
	}
	if len(named) == 1 {
		return named[0], nil
	}
	if len(named) > 1 {
		ids := make([]string, 0, len(named))
		for _, item := range named {
			ids = append(ids, c.id(item))
		}
		return none, fault.InField(c.field, "%d %ss are called %q; give the id of one: %s", len(named), c.what, c.ref, strings.Join(ids, ", "))
	}
	return none, Unknown(c.field, c.what, c.ref, c.names(all))
}

// maxNames is how many names a message lists.
const maxNames = 8

// Unknown says that the cloud has no such thing, and lists the names that are close, or, if few exist, all of them.
func Unknown(field, what, ref string, names []string) error {
	if len(names) == 0 {
		return fault.InField(field, "%s %q does not exist at the cloud, which has none", what, ref)
	}
	ranked := slices.Clone(names)
	slices.SortStableFunc(ranked, func(a, b string) int { return distance(ref, a) - distance(ref, b) })
	more := ""
	if len(ranked) > maxNames {
		ranked, more = ranked[:maxNames], ", …"
	}
	return fault.InField(field, "%s %q does not exist at the cloud; close to it are: %s%s", what, ref, strings.Join(ranked, ", "), more)
}

// distance counts the letters to insert, delete or change to get from a to b, without regard to case (Levenshtein).
func distance(a, b string) int {
	ra, rb := []rune(strings.ToLower(a)), []rune(strings.ToLower(b))
	row := make([]int, len(rb)+1)
	for j := range row {
		row[j] = j
	}
	for i, x := range ra {
		diagonal := row[0]
		row[0] = i + 1
		for j, y := range rb {
			cost := 1
			if x == y {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(rb)]
}
