"""What an event is: types, context, bytes, schemas, and where in the log it goes."""
