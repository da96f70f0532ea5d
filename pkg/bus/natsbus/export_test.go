package natsbus

// FaultOf is faultOf, for the table test.
var FaultOf = faultOf
