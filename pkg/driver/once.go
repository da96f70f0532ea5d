package driver

import (
	"context"
	"sync"
)

// memo keeps what was read in one look at a provider.
type memo struct {
	mu    sync.Mutex
	known map[string]any
}

type memoKey struct{}

// Remembering gives a context in which Once asks once.
func Remembering(ctx context.Context) context.Context {
	return context.WithValue(ctx, memoKey{}, &memo{known: map[string]any{}})
}

// Once reads something that the checks of several kinds want of one provider, such as its quotas, once for all of them: a
// look is held to one answer. key names what is read, with the account. In a context that is not Remembering it reads each
// time; an error is not kept.
func Once[T any](ctx context.Context, key string, read func() (T, error)) (T, error) {
	m, ok := ctx.Value(memoKey{}).(*memo)
	if !ok {
		return read()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.known[key].(T); ok {
		return known, nil
	}
	out, err := read()
	if err == nil {
		m.known[key] = out
	}
	return out, err
}

// Tell keeps what an answer told, under a key, for what follows in the same look (Recall). In a context that is not Remembering
// it keeps nothing.
func Tell[T any](ctx context.Context, key string, told T) {
	m, ok := ctx.Value(memoKey{}).(*memo)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[key] = told
}

// Recall gives what was told under a key in this look; false if nothing was.
func Recall[T any](ctx context.Context, key string) (T, bool) {
	var none T
	m, ok := ctx.Value(memoKey{}).(*memo)
	if !ok {
		return none, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	told, ok := m.known[key].(T)
	return told, ok
}
