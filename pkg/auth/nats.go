package auth

// How a tenant reads its events from NATS, and why it can read no other's.
//
// Events of all tenants are in one stream, EVT, under weft.evt.<tenant>.> (see pkg/bus). A reader makes a consumer on it
// through the JetStream API, whose requests are messages on subjects (NATS docs, JetStream wire API):
//
//	$JS.API.CONSUMER.CREATE.<stream>.<consumer>.<filter>   the server refuses a filter in the payload that differs
//	$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>          yields messages to whoever asks: it must be the owner's only
//
// So permissions on subjects can bound the filter, and must bound the consumer's name: with a wildcard there, one tenant
// could drain another's consumer. Wildcards stand for whole tokens, not for prefixes, so the names are listed: one for a
// consumer that is made by hand, and a number of them for ordered consumers, which the client names PREFIX_1, PREFIX_2, …
// as it makes them anew after a gap. Names begin with the tenant, which has no underscore, so they never collide across
// tenants. $JS.API.STREAM.INFO is left out, as its answer counts and can list the subjects of all tenants.
//
// What permissions cannot bound is the reply subject of a request: an answer, be it of the API or an event that a
// consumer delivers, goes where the asker says. So a member of a tenant can have copies of the tenant's own events put
// on other subjects. They are JSON and no command reads as JSON; JetStream itself takes no requests from there; and an
// event that lands in another tenant's feed still names its true owner in ce-subject, which readers go by.

import "strconv"

// orderedConsumers is how many times an ordered consumer can be made anew on one connection's identity before it must
// be restarted. A reader that lives longer uses a consumer of its own (NATSConsumer).
const orderedConsumers = 64

// eventStream is the stream of events, see pkg/bus.
const eventStream = "EVT"

// NATSConsumer is the name of the one consumer that an identity may make by itself, and the prefix of the names of its
// ordered consumers (jetstream.OrderedConsumerConfig.NamePrefix).
func NATSConsumer(id Identity) string {
	if id.Tenant == "" {
		return string(id.Class) + "_" + id.Name
	}
	return id.Tenant + "_" + id.Name
}

// NATSInbox is the prefix of the inboxes that an identity's connection must use (nats.CustomInboxPrefix).
func NATSInbox(id Identity) string { return "_INBOX_" + NATSConsumer(id) }

// NATSPermissions gives the subjects that an identity may publish to and subscribe to at NATS; ok is false for one that
// may not connect. A service may use all. A member of a tenant, editor or viewer, may read the tenant's events and
// nothing else; an operator those of all tenants.
func NATSPermissions(id Identity) (publish, subscribe []string, ok bool) {
	if id.Validate() != nil {
		return nil, nil, false
	}
	events := "weft.evt." + id.Tenant + ".>"
	switch id.Class {
	case Service:
		return []string{">"}, []string{">"}, true
	case Operator:
		events = "weft.evt.>"
	}
	name := NATSConsumer(id)
	publish = consumerSubjects(name, events)
	for i := range orderedConsumers {
		publish = append(publish, consumerSubjects(name+"_"+strconv.Itoa(i+1), events)...)
	}
	return publish, []string{events, NATSInbox(id) + ".>"}, true
}

// consumerSubjects are the subjects by which a consumer of a name, with a filter within events, is made and used.
func consumerSubjects(name, events string) []string {
	consumer := eventStream + "." + name
	return []string{
		"$JS.API.CONSUMER.CREATE." + consumer + "." + events,
		"$JS.API.CONSUMER.INFO." + consumer,
		"$JS.API.CONSUMER.DELETE." + consumer,
		"$JS.API.CONSUMER.MSG.NEXT." + consumer,
		"$JS.ACK." + consumer + ".>",
	}
}
