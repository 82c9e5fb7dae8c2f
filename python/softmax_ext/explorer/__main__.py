"""Serves the explorer of softmax on this machine's loopback address, and prints where."""

import argparse
import importlib.util
import socket
import sys
import webbrowser
from pathlib import Path

HOST = "127.0.0.1"


def main() -> int:
    arguments = _arguments()
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"error: the explorer needs {' and '.join(missing)}: run pip install 'softmax_ext[explorer]'",
            file=sys.stderr,
        )
        return 1
    try:
        listener = _listen(arguments.port)
    except OSError as error:
        print(
            f"error: cannot listen on port {arguments.port} of {HOST}: {error.strerror}. --port 0 takes a free one.",
            file=sys.stderr,
        )
        return 1
    with listener:
        return _serve(listener, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m softmax_ext.explorer", description=__doc__)
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--next-token",
        type=Path,
        metavar="FILE",
        help="a language model's logits to sample from too, as examples/next_token.py writes them; may be missing",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    arguments = parser.parse_args()
    if not 0 <= arguments.port <= 65535:
        parser.error(f"--port: expected 0 to 65535, got {arguments.port}")
    return arguments


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    # A server that was just stopped leaves its port waiting for a minute.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _serve(listener: socket.socket, arguments: argparse.Namespace) -> int:
    import torch
    import uvicorn

    from softmax_ext.explorer.app import create_app
    from softmax_ext.explorer.sampling import NextToken

    # The tensors are small: on busy cores the wait for a second thread takes much longer than it saves.
    torch.set_num_threads(1)
    next_token = None
    if arguments.next_token is not None and arguments.next_token.exists():
        try:
            next_token = NextToken.load(arguments.next_token)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    address = f"http://{HOST}:{listener.getsockname()[1]}/"
    print(f"The softmax explorer is at {address} (Ctrl+C ends it)", flush=True)
    if arguments.open:
        webbrowser.open(address)
    config = uvicorn.Config(create_app(next_token), log_level="warning", access_log=False)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has shut down by then and passes the signal on
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
