package real

import "github.com/gophercloud/gophercloud/v2/pagination"

// ids reads the ids of a page.
func ids[T any](extract func(pagination.Page) ([]T, error), id func(T) string) func(pagination.Page) ([]string, error) {
	return func(page pagination.Page) ([]string, error) {
		found, err := extract(page)
		if err != nil {
			return nil, err
		}
		out := make([]string, len(found))
		for i, f := range found {
			out[i] = id(f)
		}
		return out, nil
	}
}
