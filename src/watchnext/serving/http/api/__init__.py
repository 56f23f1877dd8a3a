"""A body > an answer: schemas, handlers, page tokens, errors, status, metrics."""
