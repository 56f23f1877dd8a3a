"""Slates computed ahead of time for a few viewers, into the store of a recommender."""

from watchnext.serving.funnel.ahead.batch import Batch, answers_of, slates_of


def precompute(recommender, users, *, k, as_of_ms):
    slates = recommender.store.slates
    run = Batch(recommender.release.id, slates.store, k, len(users), as_of_ms)
    slates.put(slates_of(answers_of(recommender, run, users)))
