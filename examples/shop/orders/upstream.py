"""Calls to the other services."""

import http.client
import json
import urllib.parse

TIMEOUT_SECONDS = 10


class Unavailable(Exception):
    """A service did not answer, or answered with a failure of its own."""


def call(base_url, method, path, traceparent=None, body=None):
    """Returns status and decoded JSON body. The trace of the request we serve goes along.

    Raises Unavailable if there is no answer, or one of 500 and above.
    """
    address = urllib.parse.urlsplit(base_url)
    headers = {"accept": "application/json"}
    if traceparent:
        headers["traceparent"] = traceparent
    if body is not None:
        headers["content-type"] = "application/json"
        body = json.dumps(body)
    connection = http.client.HTTPConnection(
        address.hostname, address.port or 80, timeout=TIMEOUT_SECONDS
    )
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        if response.status >= 500:
            raise Unavailable(f"{address.hostname} answered {response.status}")
        return response.status, json.loads(response.read() or b"null")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"{address.hostname} does not answer: {error}") from error
    finally:
        connection.close()
