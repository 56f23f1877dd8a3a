"""HTTP around the funnel: app, handlers, schemas, errors."""
