// Package installation tells what belongs to one installation of Weft from what belongs to another.
//
// Several installations may work in one project of one cloud. Each draws a name when it first starts and keeps it in its
// store; the keys that it gives to resources end with it, and with the keys the marks of its objects do. So an installation
// never takes another's object for an orphan of its own. Who starts first writes the name, in one transaction; all others
// find it.
package installation

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/google/uuid"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// Key is where the name is kept.
const Key = "/weft/installation"

// size is the length of a name in bytes. It takes the place of the last random bytes of a UUIDv7 (RFC 9562, section 5.7),
// of which 42 random bits are left beside the millisecond.
const size = 4

// Name gives the installation's name, eight hexadecimal digits, and draws it if there is none.
func Name(ctx context.Context, s store.Store) (string, error) {
	drawn := make([]byte, size)
	if _, err := rand.Read(drawn); err != nil {
		return "", fault.As(fault.Internal, fault.Wrap(err, "draw a name for the installation"))
	}
	_, err := s.Txn(ctx, []store.Compare{{Key: Key}}, []store.Op{{Key: Key, Value: []byte(hex.EncodeToString(drawn))}})
	if err != nil && !fault.Is(err, fault.Conflict) {
		return "", fault.Wrap(err, "name the installation")
	}
	kept, err := s.Get(ctx, Key)
	if err != nil {
		return "", fault.Wrap(err, "read the installation's name")
	}
	return string(kept.Value), nil
}

// NewKey makes a key of an installation: a UUIDv7 that ends with its name. With no name it is any UUIDv7.
func NewKey(name string) string {
	key := uuid.Must(uuid.NewV7())
	end, err := hex.DecodeString(name)
	if err == nil && len(end) == size {
		copy(key[len(key)-size:], end)
	}
	return key.String()
}

// Owns tells whether a key is of an installation. Without a name all are.
func Owns(name, key string) bool { return strings.HasSuffix(key, name) }
