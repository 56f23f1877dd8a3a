"""The way of a body to the routes that are called most."""

from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from watchnext.serving.http.access.middleware import replayed
from watchnext.serving.http.api.errors import JsonRoute, parsed

Model = TypeVar("Model", bound=BaseModel)
BODY = "body"  # key in a request's state: the valid body, where its connection parsed it already


class DirectRoute(BaseRoute):
    """Hand a valid body to the endpoint of `route`, which takes a body of `model` alone; everything else to the route itself.

    FastAPI looks through all routers, enters exit stacks and solves dependencies, which is a third of the loop's time for a
    slate. The route stays where it is: it answers what is not valid, and the document describes it.
    """

    def __init__(self, route: JsonRoute, model: type[BaseModel]) -> None:
        self.path, self.methods = route.path, {"POST"}
        self._route, self._model = route, model

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["method"] in self.methods and scope["path"] == self.path:
            return Match.FULL, {"route": self}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = await Request(scope, receive).body()
        body = scope.get("state", {}).get(BODY) or valid(self._model, scope, content)
        if body is None:
            await self._route.handle(scope, replayed(content, receive), send)
        else:
            await (await self._route.endpoint(body))(scope, receive, send)


def valid(model: type[Model], scope: Scope, content: bytes) -> Model | None:
    """Return the body of a request; None for one that is not valid, or whose head leaves more to look at."""
    if scope["query_string"] or [value for name, value in scope["headers"] if name == b"content-type"] != [b"application/json"]:
        return None
    try:
        return model.model_validate(parsed(content))
    except ValueError:  # no JSON, or not of the model
        return None
