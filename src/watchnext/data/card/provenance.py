"""What nobody can count about a data set: where it comes from, under which licence, and what it cannot tell."""

from collections.abc import Mapping

SIMULATED = ("sample", "world")
_WORLD = """\
Simulated. No person's behaviour is in it, and there is no licence to obey but the project's own. {origin}
How the platform is simulated, and how it compares with a real one, is told in [the simulated world](simulator.md).

What it cannot tell:
- Any figure on it is about the simulator's assumptions. Preferences are smoother than people's, and nobody acts on a whim that
  the model of the world lacks.
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


def about(name: str) -> str:
    """In Markdown, with no heading. Every preset `world...` is simulated."""
    known = ABOUT["world"] if name.startswith("world") else ABOUT.get(name)
    return known or f"Nothing is written about {name!r} yet: its origin, licence and limits belong in `{__name__}`."


def others(name: str) -> str:
    """The same of every public data set there is a loader for, but this one."""
    return "\n\n".join(text for other, text in ABOUT.items() if other not in (name, *SIMULATED))
