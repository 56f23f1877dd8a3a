"""Request and response bodies: one strict pydantic model each, so that a misspelt key or a NaN is rejected by name.

Ids are int64 or strings of 1 to 64 bytes without surrounding blanks, of the one kind that the log has, echoed as given.
Times are UTC milliseconds, ratios in [0, 1].
"""

from collections.abc import Mapping
from functools import partial
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    Tag,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from watchnext.data.tables import ID_BYTES, LATEST_MS, OUTCOMES, WATCH_MS
from watchnext.features.video_texts import TITLE_CHARACTERS, URL_BYTES
from watchnext.serving.funnel.explanation.trace import LOST_AT
from watchnext.serving.http.api.pages import TOKEN_MOST
from watchnext.serving.http.worker_pool import PRIORITIES
from watchnext.types import TARGETS

K_DEFAULT, K_MOST = 20, 100
EXCLUDE_MOST = 1000
RANK_MOST = 500
RETRIEVE_MOST = 500
FILTER_MOST = 50
MUTED_MOST = 200
EVENTS_MOST = 1000
CONTEXT_MOST = 32
UNKNOWN_MOST = 16  # keys that no model knows and that an error names one by one
SEARCH_CHARACTERS = 100


def _fits(value: str) -> str:
    if len(value.encode()) > ID_BYTES:
        raise ValueError(f"expected at most {ID_BYTES} bytes of UTF-8, got {len(value.encode())}")
    return value


# Fixed-width id arrays are padded with NUL, so an id may not hold one.
Word = Annotated[str, Field(min_length=1, max_length=ID_BYTES, pattern=r"^[^\x00]*$"), AfterValidator(_fits)]
# Loaders strip blanks around ids; here they would make an unknown viewer.
IdWord = Annotated[Word, Field(pattern=r"^[^\s\x00]([^\x00]*[^\s\x00])?$")]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


KINDS = NUMBER, STRING = "number", "string"


def _kind(value: Any) -> str:
    """Choose the kind that a value is meant to be, so that an error is about this kind alone."""
    return NUMBER if isinstance(value, int | float) and not isinstance(value, bool) else STRING


Id = Annotated[Annotated[Int64, Tag(NUMBER)] | Annotated[IdWord, Tag(STRING)], Discriminator(_kind)]
_WHO = [{"required": ["user_id"]}, {"required": ["session"]}]
Phrase = Annotated[str, Field(max_length=256)]
ContextValue = Annotated[Annotated[float, Tag(NUMBER)] | Annotated[Phrase, Tag(STRING)], Discriminator(_kind)]


def few_keys(given: Any, most: int) -> Any:
    """Stop at an object with many keys before each of them makes an error: the loop would stand still meanwhile."""
    if isinstance(given, dict) and len(given) > most:
        raise PydanticCustomError(
            "too_many_keys", "expected at most {most} keys, got {given}", {"most": most, "given": len(given)}
        )
    return given


Context = Annotated[
    dict[Word, ContextValue], Field(max_length=CONTEXT_MOST), BeforeValidator(partial(few_keys, most=CONTEXT_MOST))
]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, given: Any) -> Any:
        return few_keys(given, len(cls.model_fields) + UNKNOWN_MOST)


def _weighs(weights: Mapping[str, float]) -> Mapping[str, float]:
    if not any(weights.values()):
        raise ValueError("expected a weight other than 0")
    return weights


Weight = Annotated[float, Field(ge=-100, le=100)]
Weights = Annotated[
    dict[Literal[TARGETS], Weight],
    Field(min_length=1),
    AfterValidator(_weighs),
    BeforeValidator(partial(few_keys, most=len(TARGETS) + UNKNOWN_MOST)),
]


# Null is refused: a client that lost its id is not silently taken for a new viewer.
Optional = partial(Field, default_factory=NoneType)
SESSION = "of a viewer without an id: a text of the client's own, under which the server keeps a state"


class DialsGiven(Strict):
    """Settings of re-ranking for this request alone; those that are not given are the release's (`GET /v1/parameters`)."""

    weights: Weights | None = Field(
        None, description="outcome > weight of its prediction in the value, in place of all weights"
    )
    diversity: float | None = Field(None, ge=0, le=1, description="0 is value alone; 1 is unlike the videos above alone")
    engage: float | None = Field(None, ge=0, le=10, description="power of how likely a watch is; 0 leaves it out")


Token = Annotated[str, Field(min_length=1, max_length=TOKEN_MOST, pattern="^[A-Za-z0-9_=-]*$")]


class FilterGiven(Strict):
    """Videos that have one name of each list that is given; the slate is full where enough are left."""

    tags: list[Word] = Field(default_factory=list, max_length=FILTER_MOST)
    creators: list[Id] = Field(
        default_factory=list, max_length=FILTER_MOST, description="as `creator_id` of an answer, or its number"
    )
    language: list[Word] = Field(
        default_factory=list, max_length=FILTER_MOST, description="where the data set's videos have one"
    )


class ViewerRequest(Strict):
    """The fields that say whose candidates are wanted, and which."""

    user_id: Id = Optional(description="without one and without a session, answered as for a new viewer")
    session: Word = Optional(description=SESSION)
    surface: Word | None = None
    region: Word | None = Field(None, description="overrides the viewer's own")
    context: Context = Field(default_factory=dict)
    exclude: list[Id] = Field(
        default_factory=list,
        max_length=EXCLUDE_MOST,
        description="video ids that are not returned, whatever the mode; unknown ones are ignored",
    )
    muted: list[Id] = Field(
        default_factory=list,
        max_length=MUTED_MOST,
        description="creators, as `creator_id` of an answer, whose videos are not returned, whatever the mode; the server does "
        "not keep them; unknown ones are ignored",
    )
    filter: FilterGiven = Field(default_factory=FilterGiven, description="only videos that pass it; the slate stays full")
    seed_video_id: Id = Optional(
        description="what is near this video, or watched with it, joins the candidates; it is not shown"
    )


class RetrieveRequest(ViewerRequest):
    k: int = Field(RETRIEVE_MOST, ge=1, le=RETRIEVE_MOST, description="number of candidates; fewer where too few are found")
    mode: Literal["online", "not_personalised"] = Field(
        "online", description="not_personalised: as for a new viewer, nothing that is known of this one is read"
    )


class RecommendRequest(ViewerRequest):
    k: int = Field(K_DEFAULT, ge=1, le=K_MOST, description="number of videos; fewer are returned where too few are left")
    page_token: Token | None = Field(None, description="of the page before; without one, a first page")
    mode: Literal["online", "auto", "precomputed", "not_personalised"] = Field(
        "online",
        description="auto: the viewer's stored slate while it is valid, else online; precomputed: the stored slate, else one "
        "of trending and fresh videos, and nothing is ranked; not_personalised: as for a new viewer, nothing that is known of "
        "this one is read, so that videos may have been seen",
    )
    budget_ms: float | None = Field(
        None,
        ge=0,
        le=60_000,
        description="time for this slate; the server has a bound of its own. Parts that would be late are left out",
    )
    priority: Literal[PRIORITIES] = Field("normal", description="under overload, low is refused first and high last")
    mirror: bool = Field(
        False, description="beside another recommender: the slate is logged, but will not be shown, so nothing counts as shown"
    )
    explain: bool = Field(False, description="put the trace into the answer, as `GET /v1/trace/{request_id}` gives it")
    preview: bool = Field(
        False, description="the slate is looked at and not shown: nothing is recorded, so that its videos do not become seen"
    )
    dials: DialsGiven = Field(default_factory=DialsGiven)
    _missed: bool = False  # the viewer's stored slate was looked for, and none holds


class Degraded(Strict):
    code: str = Field(description="stable; docs/operations.md lists them")
    text: str


class Predictions(Strict):
    """The ranker's predictions; null where it did not answer."""

    click: float | None
    long_view: float | None
    like: float | None
    watch_s: float | None


class VideoTextsShown(Strict):
    """Null where the log has none."""

    title: str | None = Field(max_length=TITLE_CHARACTERS)
    thumbnail_url: str | None = Field(max_length=URL_BYTES, description="http or https")
    url: str | None = Field(max_length=URL_BYTES, description="http or https")


class VideoDetails(VideoTextsShown):
    creator_id: str | None
    tags: list[str]
    duration_ms: float | None
    age_h: float | None


class ListedVideo(Strict):
    video_id: Id
    video: VideoDetails


class VideosResponse(Strict):
    release: str
    as_of_ms: int
    items: list[ListedVideo]


class VideoResponse(ListedVideo):
    release: str
    as_of_ms: int


class Item(ListedVideo):
    score: float
    reasons: list[str]
    sources: list[str]
    predictions: Predictions


class FunnelCounts(Strict):
    retrieved: int
    ranked: int
    slate: int


class StageTrace(Strict):
    name: str
    count: int | None = Field(description="videos behind the stage; null where it has to do with none")
    ms: float


class VideoTrace(Strict):
    """The way of one video through the funnel."""

    video_id: Id
    end: Literal[LOST_AT] = Field(
        description="where it was lost: not retrieved, removed by a filter, valued too low, or pushed out"
    )
    rule: str | None = Field(description="the rule, or the part of the request, that kept it out")
    text: str
    sources: dict[str, int] = Field(description="source > rank in its list")
    merge_rank: int | None
    value_rank: int | None
    position: int | None = Field(description="in the slate")
    predictions: Predictions | None


class Trace(Strict):
    request_id: str
    release: str
    mode: str
    stages: list[StageTrace]
    sources: dict[str, int] = Field(description="source > number of candidates that it proposed")
    removed: dict[str, int]
    bent: list[str] = Field(description="soft rules that the slate does not keep, as too few candidates were left")
    costs: dict[str, float] = Field(
        description="rule, diversity, exploration > value that the slate loses by it; empty if precomputed or refilled"
    )


class TraceResponse(Trace):
    video: VideoTrace | None = Field(description="where `video_id` asks for one")


class RecommendResponse(Strict):
    request_id: str
    release: str
    mode: Literal["online", "precomputed", "not_personalised"] = Field(
        description="how it was computed: online also where no precomputed slate is available"
    )
    degraded: bool
    degraded_why: list[Degraded]
    as_of_ms: int
    items: list[Item]
    removed: dict[str, int] = Field(description="rule > number of candidates it removed")
    bent: list[str] = Field(description="soft rules that the slate does not keep, as too few candidates were left")
    funnel: FunnelCounts
    timings_ms: dict[str, float]
    page_token: str | None = Field(description="asks for the next page; null where the feed ends")
    trace: Trace | None = Field(None, description="with `explain`")


class RankRequest(Strict):
    user_id: Id = Optional(description="without one and without a session, answered as for a new viewer")
    session: Word = Optional(description=SESSION)
    video_ids: list[Id] = Field(
        min_length=1, max_length=RANK_MOST, description="the caller's candidates; a repeated one counts once"
    )
    surface: Word | None = None
    region: Word | None = Field(None, description="overrides the viewer's own")
    context: Context = Field(default_factory=dict)


class RankResponse(Strict):
    """The candidates by value, best first. Each is an item, removed or unknown. Nothing is recorded as shown."""

    request_id: str
    release: str
    degraded: bool
    degraded_why: list[Degraded]
    as_of_ms: int
    items: list[Item] = Field(description="sources is empty for a video that this viewer would not have been retrieved")
    removed: dict[str, list[Id]] = Field(
        description="unavailable, safety or region > videos that may not be shown to this viewer; no other rule applies"
    )
    unknown: list[Id] = Field(description="videos that the release does not know, or that are uploaded later")
    timings_ms: dict[str, float]


class Candidate(Strict):
    video_id: Id
    score: float = Field(description="merged score of all sources; only its order means something")
    sources: dict[str, int] = Field(description="source > rank in its list", examples=[{"two_tower": 3, "trending": 17}])


class RetrieveResponse(Strict):
    """The candidates of all sources for a viewer, merged, as the ranker would get them. Nothing is recorded as shown."""

    request_id: str
    release: str
    mode: Literal["online", "not_personalised"]
    degraded: bool
    degraded_why: list[Degraded]
    as_of_ms: int
    items: list[Candidate]
    removed: dict[str, int] = Field(
        description="unavailable, safety or region > number of candidates that may not be shown; no other rule applies"
    )
    timings_ms: dict[str, float]


class SimilarVideo(ListedVideo):
    score: float
    sources: list[str] = Field(description="two_tower: near in the index; related: watched by the same viewers")


class SimilarRequest(Strict):
    seed_video_id: Id = Field(description="also one that was withdrawn or may not be shown")
    k: int = Field(K_DEFAULT, ge=1, le=K_MOST)
    region: Word | None = Field(None, description="without one, only videos that are allowed everywhere")


class SimilarResponse(Strict):
    release: str
    as_of_ms: int
    items: list[SimilarVideo]


class ValueParameters(Strict):
    weights: dict[str, float] = Field(description="outcome > weight of its prediction; those without one count nothing")
    watch_half_s: float = Field(description="predicted seconds worth half of the weight of watch_s")
    engage: float | None = Field(description="power of how likely a watch is; null: the release cannot tell")
    formula: str
    about: str


class DiversityParameters(Strict):
    dial: float = Field(ge=0, le=1, description="as in the `dials` of a request")
    about: str


class ExplorationParameters(Strict):
    share: float = Field(description="of the slots that are drawn at random")
    about: str


class SourceParameters(Strict):
    name: str
    weight: float = Field(description="in the merge of all sources")
    quota: int = Field(description="largest number of videos")
    settings: dict[str, Any]
    about: str


class RuleParameters(Strict):
    name: str
    settings: dict[str, Any]
    about: str


class ParametersResponse(Strict):
    release: str
    surface: str | None = Field(description="whose settings these are; null: the release's own")
    surfaces: list[str] = Field(description="those that have settings of their own")
    ranked_by: str = Field(description="value, or the source whose list orders the candidates; merge is that of all sources")
    value: ValueParameters
    diversity: DiversityParameters
    exploration: ExplorationParameters
    sources: list[SourceParameters]
    candidates: int = Field(description="largest number that the merge leaves to the ranker")
    rules: list[RuleParameters] = Field(description="in their order; of caps the last is relaxed first")


class ReleaseStatus(Strict):
    id: str
    data: str
    as_of_ms: int = Field(description="where its state ends")
    videos: int
    viewers: int = Field(description="number of viewers in the log", examples=[1600])
    lost_to: dict[str, str] = Field(description="baseline > depths at which its slates lost on the validation days")


class DriftStatus(Strict):
    verdict: str = Field(description="none, drift or no data")
    rows: int = Field(description="served videos that were compared")
    columns: int
    drifted: list[str]
    reported_ms: int


class CanaryStatus(Strict):
    release: str
    share: float = Field(description="of viewers whom this release answers")
    shadow: float = Field(description="of the other requests, which it scores without effect on the answer")
    began: str = Field(description="UTC")


class StatusResponse(Strict):
    release: ReleaseStatus
    viewer_ids: Literal[NUMBER, STRING] | None = Field(description="kind of the viewers' ids; null while none is known")
    surfaces: list[str] = Field(description="of the most active ones")
    regions: list[str]
    drift: DriftStatus | None = Field(description="last report of `python -m watchnext.monitoring drift`; null without one")
    canary: CanaryStatus | None = Field(description="the release that is tried beside it; null without one")


OutcomeFlags = create_model("OutcomeFlags", __base__=Strict, **dict.fromkeys(OUTCOMES, (bool, False)))


class ViewerEvent(Strict):
    """An event of a viewer or a session, of whatever type."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _WHO})

    user_id: Id = Optional()
    session: Word = Optional(description=SESSION)
    video_id: Id
    surface: Word | None = Field(None, description="where the video was shown; counts towards what is trending there")
    at_ms: int = Optional(ge=0, le=LATEST_MS, description="when it happened, at most seven days ago; without it, now")

    @model_validator(mode="after")
    def _of_somebody(self) -> "ViewerEvent":
        if self.user_id is None and self.session is None:
            raise ValueError("expected a user_id or a session")
        return self


class OutcomeEvent(ViewerEvent, OutcomeFlags):
    """One viewer's or session's outcome for one impression. `key` makes it count once, however often it is sent."""

    type: Literal["outcome"]
    request_id: Word | None = None
    watch_ms: int = Field(0, ge=0, le=WATCH_MS)
    key: Word


class ShownEvent(ViewerEvent):
    """One video that another recommender, or the client itself, has shown. It counts once in its request, and videos of a slate
    of this server count already."""

    type: Literal["shown"]
    request_id: Word


EVENT_TYPES = "outcome", "shown"


class EventsRequest(Strict):
    events: Annotated[list[Annotated[OutcomeEvent | ShownEvent, Discriminator("type")]], FailFast()] = Field(
        min_length=1, max_length=EVENTS_MOST
    )


class EventsResponse(Strict):
    accepted: int
    duplicates: int
    unknown: int


class ListedViewer(Strict):
    user_id: Id
    watches: int


class ViewersResponse(Strict):
    release: str
    viewers: list[ListedViewer]


class Watch(OutcomeFlags, VideoTextsShown):
    video_id: Id
    creator_id: str | None
    tags: list[str]
    duration_ms: float | None
    watch_ms: float
    ago_s: float


class HistoryResponse(Strict):
    user_id: Id
    history: list[Watch]


class ErasedFrom(Strict):
    """One place: rows removed by kind; what stays and until when, null where nothing does."""

    place: str
    removed: dict[str, int]
    stays: str | None
    until: str | None


class ErasureResponse(Strict):
    receipts: list[ErasedFrom]


class Detail(Strict):
    where: str
    value: str
    expected: str


class Problem(Strict):
    code: str
    message: str
    details: list[Detail] = Field(default_factory=list)


class ErrorResponse(Strict):
    error: Problem


class EventsProblem(EventsResponse):
    """Some events were about unknown videos and were quarantined; the other events of the call count."""

    error: Problem
