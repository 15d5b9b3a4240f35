"""Into the log: acceptance, delivery, the spool, and leaving a process without loss."""
