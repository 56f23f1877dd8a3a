"""A server in a thread under uvicorn, and bytes sent to it over a socket."""

import socket
import threading
from contextlib import closing, contextmanager

import uvicorn

from watchnext.serving.http.access.middleware import BodyMiddleware
from watchnext.serving.http.app import Limits
from watchnext.serving.http.shell.connections import BoundedProtocol

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def answer(port: int, *chunks: bytes, more: bytes = b"", most: int = 0) -> bytes:
    """Send the chunks, then up to `most` times `more`; return all that the server sends until it closes."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            for chunk in (*chunks, *(more for _ in range(most))):
                connection.sendall(chunk)
        except OSError:  # the server has hung up
            pass
        try:
            while part := connection.recv(65536):
                got += part
        except ConnectionResetError:  # by what it did not read
            pass
    return got


async def echo(scope, receive, send):
    """Answer the body; at /large, more than the sockets of a connection hold."""
    message = await receive()
    content = bytes(32_000_000) if scope["path"] == "/large" else message["body"]
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": content})


@contextmanager
def serving(limits: Limits, app=echo, **attributes):
    """Run uvicorn with these limits, and other class attributes of the protocol, in a thread; gives port and server."""
    protocol = type("Protocol", (BoundedProtocol,), {"limits": limits, **attributes})
    bounded = BodyMiddleware(app, body_bytes=limits.body_bytes, body_s=limits.body_s)
    config = uvicorn.Config(bounded, http=protocol, log_config=None, lifespan="off", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1], server
        finally:
            server.should_exit = True
            thread.join(20)
            server.force_exit = True  # with a connection that is still open: the thread must not outlive its test
            thread.join()
