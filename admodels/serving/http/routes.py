"""The HTTP interface: `POST /v1/score`, `GET /v1/models`, `/healthz`, `/readyz`, `/metrics`; described at `/v1/docs`.

Every error has a status that a program can act on and one sentence for people, as `{"detail": "…"}`.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionResolutionError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admodels.errors import (
    AdmodelsError,
    HubError,
    ImageError,
    ImageSetError,
    ModelNotFoundError,
    NotAPictureError,
    OptionError,
    ScoreError,
    StoreError,
)
from admodels.serving import answers
from admodels.serving.batches import Busy
from admodels.serving.http.metrics import Metrics
from admodels.serving.http.service import Given, Scoring, Wanted

NOT_PICTURES = ("application/json", "application/xml", "text/")  # content types whose bytes are none
FORM = "multipart/form-data"
LOG = logging.getLogger(__name__)
MODEL = (
    "local:name; owner/name@revision of the Hub; or auto: the saved model whose good pictures each picture resembles, "
    "if there is one."
)
KEY_HEADERS = "Authorization: Bearer …, or X-API-Key: …"


def routes(service: Scoring) -> list[BaseRoute]:
    """All of them, for a server of their own or beside other routes."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        status = HTTPStatus.OK if service.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "ready" if service.is_ready else "not ready"}, status)

    async def metrics(request: Request) -> Response:
        try:
            _check_key(service, request)
        except HTTPException as error:
            return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
        service.metrics.waiting.set(service.places.taken)
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    return [
        Route("/healthz", health),
        Route("/readyz", ready),
        Route("/metrics", metrics),
        Mount("/v1", app=_Counted(api(service), service.metrics)),
    ]


def api(service: Scoring) -> FastAPI:
    """The endpoints under `/v1`."""
    app = FastAPI(title="admodels", version="1", description="Score pictures with saved models.")

    def check_key(request: Request) -> None:
        _check_key(service, request)

    @app.post(
        "/score",
        dependencies=[Depends(check_key)],
        openapi_extra=BODY,
        summary="Score a picture, or several",
        response_model=None,
    )
    async def score(
        request: Request,
        model: Annotated[str, Query(description=MODEL)] = "",
        rate: Annotated[float | None, Query(description="False-alarm rate of the threshold, such as 0.01.")] = None,
        map: Annotated[
            Literal["none", "png", "npy"], Query(description="Also send the anomaly map, in Base64.")
        ] = "none",
        regions: Annotated[bool, Query(description="Also send where something was found.")] = False,
    ) -> Response:
        """The body is a picture's bytes; or a form (multipart) with several, which are answered in their order."""
        started = time.perf_counter()
        _known(request, "model", "rate", "map", "regions")
        wanted = Wanted(model or service.settings.default_model, rate, map, regions)
        if not wanted.model:
            raise HTTPException(400, "no model is named. Add ?model=local:NAME; GET /v1/models lists the saved ones.")
        with ExitStack() as places:
            places.enter_context(service.places.take(1, _announced(service, request)))
            given, is_form = await _given(service, request)
            if len(given) > 1:
                places.enter_context(service.places.take(len(given) - 1, 0))
            rows = await service.score(wanted, given)
        for row in rows:
            method = row["model"]["method"] if row.get("model") else "none"
            service.metrics.pictures.labels(method, row["verdict"]).inc()
        about = {"total_milliseconds": round(1000 * (time.perf_counter() - started), 2)}
        # As it is: to look through its values for those that are no JSON would take as long as a small picture.
        return JSONResponse({"pictures": rows} | about if is_form else rows[0] | about)

    @app.get("/models", dependencies=[Depends(check_key)], summary="The saved models", response_model=None)
    def models(request: Request) -> dict[str, Any]:
        """Those that are saved on this machine; in `held` those in memory, also of the Hub."""
        _known(request)
        found, unreadable = service.store.look()
        return {
            "models": [answers.of_saved(info) for info in found],
            "unreadable": [answers.of_unreadable(folder) for folder in unreadable],
            "held": service.held(),
            "default": service.settings.default_model,
        }

    app.add_exception_handler(AdmodelsError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    return app


class _Counted:
    """Counts answers and their time; Starlette's own kind of middleware would take longer than a small request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 500
        last = scope.get("path", "").rsplit("/", 1)[-1]
        path = last if last in ("score", "models") else "other"

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {"pictures": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
        },
    }
}


def _check_key(service: Scoring, request: Request) -> None:
    """Refuse who does not bring the key; the comparison takes equally long however much of it is right."""
    if not service.settings.api_key:
        if request.headers.get("sec-fetch-site") == "cross-site":  # a browser says so of a page from elsewhere
            raise HTTPException(403, "a page of another site sent this. Set ADMODELS_API_KEY and send it too.")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    given = given.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    digests = [hashlib.sha256(key.encode()).digest() for key in (given, service.settings.api_key)]
    if not hmac.compare_digest(*digests):
        what = "the key is not the right one" if given else "a key is needed"
        raise HTTPException(
            401, f"{what}. Send the server's ADMODELS_API_KEY as {KEY_HEADERS}.", {"WWW-Authenticate": "Bearer"}
        )


def _known(request: Request, *names: str) -> None:
    """Refuse parameters that nothing would be done with: a misspelt one, or a second of its name."""
    given = [name for name, _ in request.query_params.multi_items()]
    if twice := [name for name in names if given.count(name) > 1]:
        raise HTTPException(400, f"{twice[0]!r} is given {given.count(twice[0])} times; expected once.")
    if unknown := [name for name in given if name not in names]:
        takes = f"this address takes {', '.join(names)}" if names else "this address takes none"
        raise HTTPException(400, f"there is no parameter {unknown[0]!r}; {takes}.")


def _announced(service: Scoring, request: Request) -> int:
    """Bytes of the body, as its head says; all that is allowed where it does not."""
    most, said = service.settings.max_request_bytes, request.headers.get("content-length", "")
    n_bytes = int(said) if said.isascii() and said.isdecimal() else most
    if n_bytes > most:
        raise _too_large(most, n_bytes)
    return n_bytes


def _too_large(most: int, n_bytes: int | None = None) -> HTTPException:
    came = (
        f"the request has {n_bytes / 2**20:,.1f} MiB" if n_bytes is not None else "the request is larger than announced"
    )
    return HTTPException(
        413, f"{came}; at most {most / 2**20:,.1f} are taken. Send fewer pictures at a time (ADMODELS_MAX_REQUEST_MIB)."
    )


class _InMemory(MultiPartParser):
    """No part is written to disk; the body's size is limited before."""

    spool_max_size = 2**62


async def _given(service: Scoring, request: Request) -> tuple[list[Given], bool]:
    """The pictures of a request, and whether it is a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith(NOT_PICTURES):
        raise HTTPException(
            415, f"the body is {kind}; expected a picture's bytes, or a form ({FORM}) with pictures as files."
        )
    body = _limited(request, service.settings.max_request_bytes)
    if kind == FORM:
        return await _of_form(request.headers, body, service.settings.max_waiting), True
    content = b"".join([part async for part in body])
    if not content:
        raise HTTPException(400, "the body is empty; expected a picture's bytes (curl: --data-binary @part.png).")
    return [Given(content)], False


async def _of_form(headers: Headers, body: AsyncIterator[bytes], most: int) -> list[Given]:
    try:
        parser = _InMemory(headers, body, max_files=most, max_fields=10)
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeError) as error:
        said = getattr(error, "message", str(error)) or type(error).__name__
        raise HTTPException(
            400, f"the form cannot be read ({said.rstrip('.')}); expected pictures as its files."
        ) from error
    given = []
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise HTTPException(
                    400, f"{name!r} is no file. Put options into the address, such as ?model=local:bolts."
                )
            given.append(Given(await value.read(), value.filename or ""))
    finally:
        await form.close()
    if not given:
        raise HTTPException(400, "the form has no files; expected pictures (curl: -F picture=@part.png).")
    return given


async def _limited(request: Request, most: int) -> AsyncIterator[bytes]:
    n_bytes = 0
    async for part in request.stream():
        n_bytes += len(part)
        if n_bytes > most:
            raise _too_large(most)
        yield part


def _status_of(error: AdmodelsError) -> int:
    if isinstance(error, Busy):
        return 429
    if isinstance(error, NotAPictureError):
        return 415
    if isinstance(error, ModelNotFoundError) or _is_missing_on_hub(error):
        return 404
    if isinstance(error, HubError):
        return 502 if isinstance(error.__cause__, (HfHubHTTPError, OSError)) else 422
    if isinstance(error, StoreError):  # a name that is none, or damaged files
        return 422
    return 422 if isinstance(error, ImageError | ImageSetError | OptionError | ScoreError) else 500


def _is_missing_on_hub(error: AdmodelsError) -> bool:
    return isinstance(error.__cause__, RepositoryNotFoundError | RevisionResolutionError)


def refusal(error: AdmodelsError) -> tuple[int, str, dict[str, str] | None]:
    """Status, sentence and headers that stand for an error of the library."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Busy) else None
    return _status_of(error), str(error), headers


async def _refused(request: Request, error: AdmodelsError) -> Response:
    status, detail, headers = refusal(error)
    return JSONResponse({"detail": detail}, status, headers)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    said = "; ".join(
        f"{'.'.join(map(str, each['loc'][1:]))} is {each['input']!r}: {each['msg']}" for each in error.errors()
    )
    return JSONResponse({"detail": f"{said}."}, 422)


async def _failed(request: Request, error: Exception) -> Response:
    LOG.exception("a request failed", exc_info=error)
    return JSONResponse({"detail": "the server failed at this request; its log says why."}, 500)
