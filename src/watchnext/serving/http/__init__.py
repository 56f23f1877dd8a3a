"""HTTP API around the funnel: api, access, openapi, swap of releases, app, shell, service (BentoML), page/."""
