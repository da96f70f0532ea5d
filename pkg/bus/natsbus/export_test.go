package natsbus

import "github.com/nats-io/nats.go/jetstream"

// FaultOf is faultOf, for the table test.
var FaultOf = faultOf

// Wrap puts something between a bus and JetStream. It must be called before the bus is used.
func Wrap(b *Bus, wrap func(jetstream.JetStream) jetstream.JetStream) { b.js = wrap(b.js) }
