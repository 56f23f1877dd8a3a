"""Events from a log, and to one: Redis Streams or Kafka, each behind one small interface."""
