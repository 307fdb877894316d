"""Unusual bytes in the response to a start, and what the two clients cannot treat alike."""

from __future__ import annotations

import json
from collections.abc import Callable

Form = Callable[[bytes], bytes]
"""Makes a whole response of the JSON body of a good one."""


def _line(status_line: bytes) -> Form:
    return lambda body: status_line + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _header(header: bytes) -> Form:
    return lambda body: b"HTTP/1.1 201 Created\r\n" + header + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _length(make: Callable[[int], bytes]) -> Form:
    return lambda body: b"HTTP/1.1 201 Created\r\n" + make(len(body)) + b"\r\n\r\n" + body


def _chunked(coding: bytes, make: Callable[[bytes], bytes]) -> Form:
    return lambda body: b"HTTP/1.1 201 Created\r\nTransfer-Encoding: " + coding + b"\r\n\r\n" + make(body)


def _body(make: Callable[[bytes], bytes], header: bytes = b"Content-Type: application/json") -> Form:
    return lambda body: _header(header)(make(body))


def _text(make: Callable[[str], bytes]) -> Form:
    return _body(lambda body: make(body.decode()))


FORMS: dict[str, Form] = {
    # The status line
    "a status line in lower case": _line(b"http/1.1 201 Created"),
    "HTTP/1.0": _line(b"HTTP/1.0 201 Created"),
    "HTTP/1.2": _line(b"HTTP/1.2 201 Created"),
    "HTTP/2 in text": _line(b"HTTP/2 201 Created"),
    "no reason phrase": _line(b"HTTP/1.1 201"),
    "an empty reason phrase": _line(b"HTTP/1.1 201 "),
    "a reason phrase in Latin-1": _line(b"HTTP/1.1 201 Cr\xe9\xe9"),
    "a reason phrase in UTF-8": _line("HTTP/1.1 201 Créé ✓".encode()),
    "a tab in the reason phrase": _line(b"HTTP/1.1 201 Crea\tted"),
    "a NUL in the reason phrase": _line(b"HTTP/1.1 201 Crea\x00ted"),
    "two spaces before the status": _line(b"HTTP/1.1  201 Created"),
    "a status with four digits": _line(b"HTTP/1.1 0201 Created"),
    "a status with a sign": _line(b"HTTP/1.1 +201 Created"),
    "a status with two digits": _line(b"HTTP/1.1 20 Created"),
    # Line ends
    "line feeds alone": lambda body: b"HTTP/1.1 201 Created\nContent-Length: %d\n\n" % len(body) + body,
    "carriage returns alone": lambda body: b"HTTP/1.1 201 Created\rContent-Length: %d\r\r" % len(body) + body,
    "an empty line before the status line": _line(b"\r\nHTTP/1.1 201 Created"),
    "a line feed before the status line": _line(b"\nHTTP/1.1 201 Created"),
    "a space before the status line": _line(b" HTTP/1.1 201 Created"),
    # Headers
    "a space before a colon": _header(b"X-One : 1"),
    "a folded header": _header(b"X-One: 1\r\n 2"),
    "a header without a name": _header(b": 1"),
    "a header without a colon": _header(b"nonsense"),
    "a header in Latin-1": _header(b"X-One: \xe9"),
    "a header in UTF-8": _header("X-One: ✓".encode()),
    "a header name in Latin-1": _header(b"X-\xe9: 1"),
    "a NUL in a header": _header(b"X-One: 1\x002"),
    "a carriage return in a header": _header(b"X-One: 1\r2"),
    "a control character in a header": _header(b"X-One: 1\x072"),
    "a header without a value": _header(b"X-One:"),
    "100 headers": _header(b"\r\n".join(b"X-%d: 1" % n for n in range(99))),
    "129 headers": _header(b"\r\n".join(b"X-%d: 1" % n for n in range(128))),
    "a header of 7 KiB": _header(b"X-One: " + b"a" * 7 * 1024),
    "a header of 9 KiB": _header(b"X-One: " + b"a" * 9 * 1024),
    "a header of 64 KiB": _header(b"X-One: " + b"a" * 64 * 1024),
    "headers of 60 KiB": _header(b"\r\n".join(b"X-%d: %s" % (n, b"a" * 3000) for n in range(20))),
    "a cookie": _header(b"Set-Cookie: a=b"),
    "a cookie that is none": _header(b"Set-Cookie: =;;\x80"),
    "Connection: close": _header(b"Connection: close"),
    "Connection: nonsense": _header(b"Connection: nonsense, ,"),
    "an upgrade that was not asked for": _header(b"Connection: upgrade\r\nUpgrade: websocket"),
    # Lengths
    "a length with a sign": _length(lambda n: b"Content-Length: +%d" % n),
    "a length with blanks": _length(lambda n: b"Content-Length:   %d  " % n),
    "a length with zeros": _length(lambda n: b"Content-Length: 000%d" % n),
    "a length with an underscore": _length(lambda n: b"Content-Length: %d_%d" % (n // 10, n % 10)),
    "a length in hexadecimal": _length(lambda n: b"Content-Length: %#x" % n),
    "a length that is negative": _length(lambda n: b"Content-Length: -%d" % n),
    "a length that is empty": _length(lambda n: b"Content-Length:"),
    "a length that is a word": _length(lambda n: b"Content-Length: many"),
    "a length twice": _length(lambda n: b"Content-Length: %d\r\nContent-Length: %d" % (n, n)),
    "a length twice in one header": _length(lambda n: b"Content-Length: %d, %d" % (n, n)),
    "two lengths": _length(lambda n: b"Content-Length: %d\r\nContent-Length: %d" % (n, n - 1)),
    "a length that is too short": _length(lambda n: b"Content-Length: %d" % (n - 1)),
    "a length that is too long": _length(lambda n: b"Content-Length: %d" % (n + 1)),
    "a length beyond 64 bits": _length(lambda n: b"Content-Length: 99999999999999999999999"),
    "no length": lambda body: b"HTTP/1.1 201 Created\r\n\r\n" + body,
    # Chunks
    "chunks": _chunked(b"chunked", lambda body: b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"),
    "chunks, in upper case": _chunked(b"CHUNKED", lambda body: b"%X\r\n" % len(body) + body + b"\r\n0\r\n\r\n"),
    "chunks with extensions": _chunked(b"chunked", lambda b: b'%x;a="b";c\r\n' % len(b) + b + b"\r\n0;d\r\n\r\n"),
    "chunk sizes with zeros": _chunked(b"chunked", lambda b: b"0000%x\r\n" % len(b) + b + b"\r\n000\r\n\r\n"),
    "chunk sizes with blanks": _chunked(b"chunked", lambda b: b"%x  \r\n" % len(b) + b + b"\r\n0\r\n\r\n"),
    "chunk sizes with a prefix": _chunked(b"chunked", lambda b: b"%#x\r\n" % len(b) + b + b"\r\n0\r\n\r\n"),
    "chunk sizes with a sign": _chunked(b"chunked", lambda b: b"+%x\r\n" % len(b) + b + b"\r\n0\r\n\r\n"),
    "negative chunk sizes": _chunked(b"chunked", lambda b: b"-%x\r\n" % len(b) + b + b"\r\n0\r\n\r\n"),
    "chunks with trailers": _chunked(b"chunked", lambda b: b"%x\r\n" % len(b) + b + b"\r\n0\r\nX-One: 1\r\n\r\n"),
    "chunks without a last one": _chunked(b"chunked", lambda b: b"%x\r\n" % len(b) + b + b"\r\n"),
    "chunks with line feeds alone": _chunked(b"chunked", lambda b: b"%x\n" % len(b) + b + b"\n0\n\n"),
    "chunks and a length": _chunked(
        b"chunked\r\nContent-Length: 5", lambda b: b"%x\r\n" % len(b) + b + b"\r\n0\r\n\r\n"
    ),
    "chunks twice": _chunked(b"chunked, chunked", lambda b: b"%x\r\n" % len(b) + b + b"\r\n0\r\n\r\n"),
    "a transfer coding that is unknown": _chunked(b"rot13", lambda body: body),
    "the transfer coding identity": _chunked(b"identity", lambda body: body),
    "the transfer codings gzip, chunked": _chunked(
        b"gzip, chunked", lambda b: b"%x\r\n" % len(b) + b + b"\r\n0\r\n\r\n"
    ),
    # Encodings
    "no content type": _body(lambda body: body, b"X-One: 1"),
    "a content type of HTML": _body(lambda body: body, b"Content-Type: text/html"),
    "a content type that is broken": _body(lambda body: body, b"Content-Type: ;;=\xff"),
    "a charset of UTF-16 with UTF-8": _body(lambda body: body, b"Content-Type: application/json; charset=utf-16"),
    "the content encoding IDENTITY": _body(lambda body: body, b"Content-Encoding: IDENTITY"),
    "a content encoding twice": _body(lambda body: body, b"Content-Encoding: identity\r\nContent-Encoding: gzip"),
    "an empty content encoding": _body(lambda body: body, b"Content-Encoding:"),
    "a content encoding of gzip without gzip": _body(lambda body: body, b"Content-Encoding: gzip"),
    # JSON
    "a byte order mark": _body(lambda body: b"\xef\xbb\xbf" + body),
    "two byte order marks": _body(lambda body: b"\xef\xbb\xbf\xef\xbb\xbf" + body),
    "UTF-16": _text(lambda text: text.encode("utf-16")),
    "UTF-16 without a byte order mark": _text(lambda text: text.encode("utf-16-le")),
    "UTF-32": _text(lambda text: text.encode("utf-32")),
    "Latin-1": _text(lambda text: text.replace("Session", "Séssion").encode("latin-1")),
    "blanks around": _body(lambda body: b" \r\n\t" + body + b"\n\n"),
    "a NUL at the end": _body(lambda body: body + b"\x00"),
    "a key twice": _body(lambda body: body.replace(b'{"code"', b'{"code": 5000, "code"', 1)),
    "a comma at the end": _body(lambda body: body[:-1] + b",}"),
    "single quotes": _text(lambda text: repr(json.loads(text)).encode()),
    "a comment": _body(lambda body: b"// hello\n" + body),
    "two documents": _body(lambda body: body + body),
    "a deep nest": _body(lambda body: body[:-1] + b', "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "an integer of 5000 digits": _body(lambda body: body[:-1] + b', "big": ' + b"9" * 5000 + b"}"),
    "a half surrogate": _body(lambda body: body.replace(b"Session started", b"\\ud800")),
    "NaN": _body(lambda body: body[:-1] + b', "x": NaN}'),
}

ACCEPTED, NO_RESPONSE, BAD_RESPONSE = "accepted", "LiveAvatarConnectionError", "BadResponseError"

DIFFERENCES: dict[str, tuple[str, str]] = {
    "HTTP/1.2": (ACCEPTED, NO_RESPONSE),
    "a NUL in the reason phrase": (NO_RESPONSE, ACCEPTED),
    "an empty line before the status line": (NO_RESPONSE, ACCEPTED),
    "a line feed before the status line": (NO_RESPONSE, ACCEPTED),
    "129 headers": (ACCEPTED, NO_RESPONSE),
    "a header of 9 KiB": (ACCEPTED, NO_RESPONSE),
    "a header of 64 KiB": (ACCEPTED, NO_RESPONSE),
    "a length twice": (ACCEPTED, NO_RESPONSE),
    "a length twice in one header": (ACCEPTED, NO_RESPONSE),
    "a length that is too short": (BAD_RESPONSE, NO_RESPONSE),
    "chunks and a length": (ACCEPTED, NO_RESPONSE),
    "chunks twice": (NO_RESPONSE, ACCEPTED),
    "a transfer coding that is unknown": (NO_RESPONSE, ACCEPTED),
    "the transfer coding identity": (NO_RESPONSE, ACCEPTED),
    "the transfer codings gzip, chunked": (NO_RESPONSE, ACCEPTED),
}
"""What the blocking and the async client do with the forms that they cannot treat alike.

Their HTTP parsers, h11 and llhttp, differ in these. A session that is not accepted is stopped in either client.
"""
