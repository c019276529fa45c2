"""Errors <-> gRPC status codes: the one table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

import grpc
import grpc.aio

from scoot.wire.errors import (
    InvariantViolation,
    LocalProtocolError,
    PermanentInfraError,
    RemoteProtocolError,
    ScootError,
    SolverError,
    TransientError,
    UserError,
)

P = ParamSpec("P")
T = TypeVar("T")

STATUS: Final[tuple[tuple[type[ScootError], grpc.StatusCode], ...]] = (
    (UserError, grpc.StatusCode.INVALID_ARGUMENT),
    (RemoteProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
    (TransientError, grpc.StatusCode.UNAVAILABLE),
    (SolverError, grpc.StatusCode.UNAVAILABLE),
    (PermanentInfraError, grpc.StatusCode.FAILED_PRECONDITION),
    (LocalProtocolError, grpc.StatusCode.INTERNAL),
    (InvariantViolation, grpc.StatusCode.INTERNAL),
    (ScootError, grpc.StatusCode.UNKNOWN),
)


def status_of(error: ScootError) -> grpc.StatusCode:
    """The status code of an error: that of the first class in the table it belongs to."""
    return next(code for kind, code in STATUS if isinstance(error, kind))


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: ScootError) -> NoReturn:
    """End the call with the error's status and text."""
    await context.abort(status_of(error), str(error))


def mapped(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Decorate a unary `async def Method(self, request, context)`: ScootErrors become status codes."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except ScootError as error:
            context: Any = args[2]
            await refuse(context, error)

    return call
