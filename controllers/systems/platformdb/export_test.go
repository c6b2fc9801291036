package platformdb

// DeliveriesSQL is explained by a test.
const DeliveriesSQL = deliveriesSQL
