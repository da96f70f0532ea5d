package stack

// LaterThan is laterThan, for tests.
var LaterThan = laterThan

// Worst is worst, for tests.
var Worst = worst
