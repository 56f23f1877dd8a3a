"""Provenance of a data set: origin, licence and limits, which cannot be computed from the tables."""

from collections.abc import Mapping

SIMULATED = ("sample", "world")
_WORLD = """\
Simulated. It holds no person's behaviour and falls under the project's own licence. {origin}
[The simulated world](simulator.md) describes the simulation and compares it with a real platform.

Limits:
- Figures on it reflect the simulator's assumptions. Preferences are smoother than people's, and nobody acts on a whim outside
  the model of the world.
- Behaviour outside the service (searches, shares, other apps) does not exist.
- Viewers' age groups and regions are drawn with fixed shares. They represent no population."""

ABOUT: Mapping[str, str] = {
    "sample": _WORLD.format(
        origin="The files lie in `data/`,\n"
        "tracked by `data.dvc` and carried by git. They are made by\n"
        "`python -m watchnext.simulator world data=world out=DIR`, with the sizes and the seed in `conf/data/world.yaml`."
    ),
    "world": _WORLD.format(origin="Sizes, laws and seed stand in its preset in `conf/data/`."),
    "kuairand": """\
KuaiRand-Pure: Gao et al., CIKM 2022, zenodo.org/records/10439422, CC BY-SA 4.0. Not in the repository; `make kuairand
KUAIRAND_ROOT=...` reads it where it is. Figures in these pages are from the days 25 April to 5 May 2022. Its users'
`onehot_feat*` are anonymised codes. It has no position, propensity, region, safety label, fingerprint or content vector.

Known trap: `is_click` almost decides `long_view` (a long view without a click is 0.2% of the rows without one), so it is an
outcome and never an input.""",
    "kuairand_27k": "KuaiRand-27K: Gao et al., CIKM 2022, zenodo.org/records/10439422, CC BY-SA 4.0. Not in the repository.",
    "movielens": """\
MovieLens: Harper & Konstan, TiiS 2015, grouplens.org/datasets/movielens. Not in the repository. A rating is read as a watch, so
watch times are nominal: watch ratio is rating / 5. Nobody was shown what they did not rate, so there are no skips.""",
    "vk_lsvd": """\
VK-LSVD: huggingface.co/datasets/deepvk/VK-LSVD, arXiv 2602.04567. Not in the repository. The log has order and weeks but no
times: any day and hour of it is made up within its week.""",
    "sequences": """\
A file of sequences: `user item item ...` a line. It has neither times nor outcomes: its days are made up, and every item
counts as watched to its nominal end.""",
}


def provenance_of(name: str) -> str:
    """Return the provenance of a data set in Markdown, without a heading. Every preset `world...` is simulated."""
    known = ABOUT["world"] if name.startswith("world") else ABOUT.get(name)
    return known or f"Nothing is known about {name!r} yet: add its origin, licence and limits to `{__name__}`."


def provenance_of_others(name: str) -> str:
    """Return the provenance of every other public data set with a loader."""
    return "\n\n".join(text for other, text in ABOUT.items() if other not in (name, *SIMULATED))
