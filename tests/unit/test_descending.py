"""The order by score and tie is that of a lexsort, with many ties, few, and none."""

import numpy as np
import pytest

from watchnext.types import descending


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("values", [1, 3, 40, 10**6])
def test_scores_are_ordered_like_a_lexsort(values, kind):
    random = np.random.default_rng(values)
    for count in (0, 1, 2, 17, 500):
        scores, ties = random.integers(values, size=count).astype(kind), random.permutation(3 * count)[:count]
        scores[random.random(count) < 0.1] = -np.inf  # without a prediction
        assert descending(scores, ties).tolist() == np.lexsort((ties, -scores)).tolist()
