package reconcile_test

import (
	"sync"
	"testing"
	"time"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/memdriver"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// TestSlowLookUp has the second look-up, which follows the first at once since somebody woke the loop, answer after a long time what was the case when
// it was asked: that is no proof that there is nothing. The create comes through meanwhile. Found by the simulation of a
// cluster (services/orchestrator/internal/engine, seed 195 of its first version): a second object was made.
func TestSlowLookUp(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: unavailable()})
		var late sync.Once
		r.tap.set(func(d *tap) {
			d.broken = func() error {
				if n := count(r.cloud.Calls(), memdriver.Find); n < 2 {
					if n == 1 {
						r.loop.Wake(r.entry("a").ID)
					}
					return nil
				}
				late.Do(func() {
					e := r.entry("a")
					if _, err := r.cloud.Create(t.Context(), driver.Request[*networkv1.NetworkSpec]{Key: e.Key, Name: e.Name, Spec: &networkv1.NetworkSpec{Mtu: 1400}}); err != nil {
						t.Error(err)
					}
					time.Sleep(5 * time.Second)
				})
				return nil
			}
		})
		r.ensure("a", 1400)
		r.awaitReady("a")
		if n := count(r.cloud.Calls(), memdriver.Create); n != 2 || len(r.cloud.Objects()) != 1 {
			t.Errorf("%d creates, the late one included; objects %v", n, r.cloud.Objects())
		}
	})
}
