package driver

import "context"

type ageKey struct{}

// OfAnyAge gives a context for an Observe of objects that stand, as a round over all that is ready asks for them: they may be
// of any age. Without it they are most often young, made a moment ago and looked at until they are ready, and a driver may
// look first where those are.
func OfAnyAge(ctx context.Context) context.Context { return context.WithValue(ctx, ageKey{}, true) }

// IsOfAnyAge tells whether a context is one that OfAnyAge gave.
func IsOfAnyAge(ctx context.Context) bool {
	is, ok := ctx.Value(ageKey{}).(bool)
	return ok && is
}
