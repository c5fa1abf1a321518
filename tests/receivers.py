"""A real mail server and a receiver of POSTs, on loopback, for tests of notifications."""

from __future__ import annotations

import asyncio
import http.server
import json
import ssl
import threading
from email import message_from_bytes
from email.message import Message
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


class MailServer:
    """`refuses`: recipients it answers 550 for. With `password` it wants a sign-in, after STARTTLS where it
    has a `context`."""

    def __init__(
        self,
        password: str = "",
        context: ssl.SSLContext | None = None,
        implicit: bool = False,
        refuses: tuple[str, ...] = (),
    ) -> None:
        self.messages: list[Message] = []
        self.recipients: list[str] = []
        self.refuses = refuses
        self._password, self._context, self._implicit = password, context, implicit
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> MailServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(
            self._protocol, "127.0.0.1", 0, ssl=self._context if self._implicit else None
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _protocol(self) -> SMTP:
        later = self._context if not self._implicit else None
        return SMTP(
            self,
            loop=self._loop,
            hostname="mail.test",
            tls_context=later,
            require_starttls=later is not None,
            auth_require_tls=later is not None,
            auth_required=bool(self._password),
            authenticator=self._authenticate if self._password else None,
        )

    def _authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        good = isinstance(data, LoginPassword) and data.password.decode() == self._password
        return AuthResult(success=good, handled=False)

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:
        if address in self.refuses:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope) -> str:
        self.recipients += envelope.rcpt_tos  # before the message, which is what tests wait for
        self.messages.append(message_from_bytes(envelope.content))
        return "250 OK"


class HookReceiver:
    """`answers`: statuses for the POSTs to come, the last one for all after."""

    def __init__(self, *answers: int, location: str = "") -> None:
        self.answers = list(answers) or [200]
        self.posts: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                outer.headers.append(dict(self.headers))
                outer.posts.append(json.loads(body))  # last: it is what tests wait for
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def __enter__(self) -> HookReceiver:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
