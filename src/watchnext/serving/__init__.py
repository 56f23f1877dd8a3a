"""A request > a slate: release, store, recommender, contract, app (HTTP), service (BentoML), served (log), batch, page/."""
