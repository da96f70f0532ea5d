// Package secret is the kind Secret: values that nobody can read back.
//
// Values are sealed before they are kept, each with AES-256-GCM (NIST SP 800-38D) under the platform's key, bound to the
// secret's name and the value's key, so that a sealed value is of no use elsewhere. They are opened only for services.
package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
)

// KeySize is the size of the platform's key in bytes.
const KeySize = 32

// mark begins every sealed value; it names the format.
const mark = "sealed:v1:"

// Sealer seals and opens values.
type Sealer struct{ aead cipher.AEAD }

// NewSealer makes a sealer with the platform's key.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fault.New(fault.Internal, "the key for secrets has %d bytes instead of %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "make the cipher for secrets"))
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "make the cipher for secrets"))
	}
	return &Sealer{aead: aead}, nil
}

// Sealed tells whether a value is sealed.
func Sealed(value string) bool { return strings.HasPrefix(value, mark) }

func bound(name, key string) []byte { return []byte(name + "\x00" + key) }

// Seal seals one value of a secret.
func (s *Sealer) Seal(name, key, value string) (string, error) {
	nonce := make([]byte, s.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return "", fault.As(fault.Internal, fault.Wrap(err, "seal %s", name))
	}
	return mark + base64.StdEncoding.EncodeToString(s.aead.Seal(nonce, nonce, []byte(value), bound(name, key))), nil
}

// Open opens one value of a secret. The error does not hold the value.
func (s *Sealer) Open(name, key, sealed string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sealed, mark))
	if err != nil || !Sealed(sealed) || len(raw) < s.aead.NonceSize() {
		return "", fault.New(fault.Internal, "%s: the value of %q is not sealed as it should be", name, key)
	}
	value, err := s.aead.Open(nil, raw[:s.aead.NonceSize()], raw[s.aead.NonceSize():], bound(name, key))
	if err != nil {
		return "", fault.New(fault.Internal, "%s: the value of %q cannot be opened; was the platform's key changed?", name, key)
	}
	return string(value), nil
}
