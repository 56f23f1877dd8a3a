"""The way of a body to the routes that are called most."""

from pydantic import BaseModel
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from watchnext.serving.http.access.middleware import replayed
from watchnext.serving.http.api.errors import JsonRequest, JsonRoute


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
        request = JsonRequest(scope, receive)
        body = await self._valid(request)
        if body is None:
            await self._route.handle(scope, replayed(await request.body(), receive), send)
        else:
            await (await self._route.endpoint(body))(scope, receive, send)

    async def _valid(self, request: JsonRequest) -> BaseModel | None:
        if request.scope["query_string"] or request.headers.get("content-type") != "application/json":
            return None
        try:
            return self._model.model_validate(await request.json())
        except ValueError:  # no JSON, or not of the model
            return None
