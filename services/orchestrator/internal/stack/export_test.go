package stack

// LaterThan is laterThan, for tests.
var LaterThan = laterThan
