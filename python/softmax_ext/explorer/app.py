"""The web application: the page, its files, and one address of numbers per view.

A view is a function of a ``Query``; what it returns is sent as JSON from ``/api/<view>``. The page has the same query in
its own address, ``/<view>``.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from softmax_ext.explorer.calibration import calibration, calibration_sweep
from softmax_ext.explorer.distribution import explorer, sweep, temperature
from softmax_ext.explorer.json_numbers import with_nonfinite_as_strings
from softmax_ext.explorer.query import Query, QueryError
from softmax_ext.explorer.sampling import EIGHT_WORDS, NextToken, sampling
from softmax_ext.explorer.stability import stability, stability_map

STATIC = Path(__file__).parent / "static"

View = Callable[[Query], dict[str, Any]]
PAGES = ["explorer", "temperature", "stability", "sampling", "calibration"]

# The browser itself then refuses whatever would leave this machine.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Numbers(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(with_nonfinite_as_strings(content), allow_nan=False, separators=(",", ":")).encode()


def create_app(next_token: NextToken | None = None) -> Starlette:
    """``next_token`` is a second source of logits for the view of sampling, beside eight words."""
    sources = {"words": EIGHT_WORDS}
    if next_token is not None:
        sources["model"] = next_token
    views: dict[str, View] = {
        "explorer": explorer,
        "temperature": temperature,
        "temperature/sweep": sweep,
        "stability": stability,
        "stability/map": stability_map,
        "sampling": partial(sampling, sources=sources),
        "calibration": calibration,
        "calibration/sweep": calibration_sweep,
    }
    return Starlette(
        routes=[
            *(Route(f"/{name}", _page) for name in ("", *PAGES)),
            *(Route(f"/api/{name}", _numbers_of(view)) for name, view in views.items()),
            Mount("/static", _Files(directory=STATIC)),
        ],
        # A page elsewhere that gives its own name this machine's address is not served.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
    )


def _numbers_of(view: View) -> Callable:
    async def respond(request: Request) -> Response:
        query = Query(request.query_params.multi_items())
        try:
            numbers = view(query)
            query.refuse_the_rest()
        except QueryError as error:
            return Numbers({"error": str(error)}, status_code=400, headers=HEADERS)
        return Numbers(numbers, headers=HEADERS)

    return respond


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers=HEADERS)


class _Files(StaticFiles):
    def file_response(self, *arguments: Any, **keywords: Any) -> Response:
        response = super().file_response(*arguments, **keywords)
        response.headers.update(HEADERS)
        return response
