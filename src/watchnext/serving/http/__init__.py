"""HTTP API around the funnel: app, handlers, schemas, errors, middleware, settings, metrics, service (BentoML), page/."""
