"""Apache Kafka, through confluent-kafka."""
