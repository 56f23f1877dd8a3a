"""Held-out requests > traces: what each source and stage of the funnel finds, and where each watched video is lost."""
