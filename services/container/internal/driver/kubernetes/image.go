package kubernetes

import (
	"errors"
	"fmt"

	"github.com/distribution/reference"
)

// examineImage tells what is wrong with an image reference; nil if it can be read. Whether the image exists is for the
// cluster's nodes to find out: they have the way and the rights to its registry.
func examineImage(image string) error {
	_, err := reference.ParseNormalizedNamed(image)
	if errors.Is(err, reference.ErrNameContainsUppercase) {
		return fmt.Errorf("%q: the part before the tag must be in lower case", image)
	}
	if err != nil {
		return fmt.Errorf("%q is no image reference; it should look like registry.example/shop/web:1.2", image)
	}
	return nil
}
