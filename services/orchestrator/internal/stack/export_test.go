package stack

// LaterThan is laterThan, for tests.
var LaterThan = laterThan

// Worst is worst, for tests.
var Worst = worst

// CutEntry is cutEntry, for tests.
var CutEntry = cutEntry
