"""What becomes of a request whose client goes away.

Law     GET and HEAD only tell: they end with their client, so that nobody follows a log or events for nobody. All else
        does something: it is finished all the same, so that nothing is left half done.

The server must cancel the handlers of clients that are gone: `web.AppRunner(app, handler_cancellation=True)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

__all__ = ["finish_what_was_begun"]

_unfinished: set[asyncio.Future[web.StreamResponse]] = set()


@web.middleware
async def finish_what_was_begun(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Carry on with a request that does something although its client is gone."""
    if request.method in ("GET", "HEAD"):
        return await handler(request)
    work = asyncio.ensure_future(handler(request))
    _unfinished.add(work)
    work.add_done_callback(_unfinished.discard)
    return await asyncio.shield(work)
