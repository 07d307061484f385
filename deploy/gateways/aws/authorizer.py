"""A Lambda authorizer for AWS API Gateway that asks Tidegate whether a request may pass.

It takes the events of REST APIs, and of HTTP APIs with payload version 2.0 and simple responses. Environment:

    TIDEGATE_NODES      addresses of nodes, as host:port, separated by commas
    TIDEGATE_DOMAIN     the domain of the checks
    TIDEGATE_FAIL_MODE  closed (default) or open: what happens if no node answers
    TIDEGATE_TOKEN      sent as `Authorization: Bearer`, if the nodes want a token
"""

import http.client
import os
import socket
import time
from urllib.parse import quote, urlencode

TRIES = 2
# The first try ends after this time, and the second, with the whole check, after twice this time.
TRY_SECONDS = 0.25
# The header of an answer, and its name in the context, which a gateway response can show.
SHOWN = {"Retry-After": "retryAfter", "RateLimit": "rateLimit", "RateLimit-Policy": "rateLimitPolicy"}

NODES = [node.strip() for node in os.environ["TIDEGATE_NODES"].split(",")]
DOMAIN = os.environ["TIDEGATE_DOMAIN"]
FAIL_MODE = os.environ.get("TIDEGATE_FAIL_MODE", "closed")
if FAIL_MODE not in ("closed", "open"):
    raise ValueError(f"TIDEGATE_FAIL_MODE: expected closed or open, got {FAIL_MODE}")
TOKEN = os.environ.get("TIDEGATE_TOKEN")

# A connection to each node, which the next calls of this function reuse.
connections = {}


class BoundedSocket(socket.socket):
    """A socket that reads until `end`. A timeout would bound each step of a read only."""

    end = 0.0

    def recv_into(self, *arguments):
        self.settimeout(seconds_until(self.end))
        return super().recv_into(*arguments)


def seconds_until(end):
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def headers_of_check(event):
    context = event["requestContext"]
    sent = values_of_headers(event)
    if event.get("version") == "2.0":
        method, ip = context["http"]["method"], context["http"]["sourceIp"]
        path, query = event["rawPath"], event.get("rawQueryString", "")
    else:
        method, ip = event["httpMethod"], context["identity"]["sourceIp"]
        path, query = event["path"], urlencode(event.get("queryStringParameters") or {})
    headers = {
        "X-Forwarded-Method": method,
        "X-Forwarded-Uri": quote(path, safe="/%:@!$&'()*+,;=~") + (f"?{query}" if query else ""),
        "X-Forwarded-Host": context.get("domainName") or "".join(sent.get("host", [])),
        "X-Forwarded-For": ip,
        "X-Request-Id": context["requestId"],
    }
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    for name in ("x-api-key", "user-agent"):
        if name in sent:
            headers[name] = ", ".join(sent[name])
    return {name: value.encode("utf-8") for name, value in headers.items()}


def values_of_headers(event):
    """Returns the values of each header by its name in lower case."""
    several = event.get("multiValueHeaders") or {name: [value] for name, value in (event.get("headers") or {}).items()}
    sent = {}
    for name, values in several.items():
        sent.setdefault(name.lower(), []).extend(values)
    return sent


def has_several_keys(event):
    """The application might read another key than the one that would be counted."""
    keys = values_of_headers(event).get("x-api-key", [])
    # Events of version 2.0 join the values of a header with commas.
    return len(keys) > 1 or (event.get("version") == "2.0" and any("," in key for key in keys))


def connect(node, end):
    connection = http.client.HTTPConnection(node)
    connected = socket.create_connection((connection.host, connection.port), seconds_until(end))
    connection.sock = BoundedSocket(fileno=connected.detach())
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(node, headers, end):
    """Returns the status and the headers of the answer. Raises OSError or HTTPException without one."""
    kept = connections.pop(node, None)
    if kept:
        try:
            return ask_on(kept, node, headers, end)
        except ConnectionError:
            pass  # The node has closed the connection since the last call.
    return ask_on(connect(node, end), node, headers, end)


def ask_on(connection, node, headers, end):
    connection.sock.end = end
    try:
        connection.sock.settimeout(seconds_until(end))
        connection.request("GET", "/v1/authorize?" + urlencode({"domain": DOMAIN}), headers=headers)
        answer = connection.getresponse()
        answer.read()
    except BaseException:
        connection.close()
        raise
    if connection.sock:  # The node has not said that it closes the connection.
        connections[node] = connection
    return answer.status, answer.headers


def check(event):
    """Returns whether the request may pass, and the context of the answer."""
    if has_several_keys(event):
        return False, {}
    headers = headers_of_check(event)
    start = time.monotonic()
    for attempt in range(TRIES):
        node = NODES[attempt % len(NODES)]
        try:
            status, answered = ask(node, headers, start + (attempt + 1) * TRY_SECONDS)
        except (OSError, http.client.HTTPException) as problem:
            print(f"tidegate at {node}: {problem!r}")
            continue
        if status < 500:
            context = {name: answered[header] for header, name in SHOWN.items() if answered[header]}
            return status == 200, context
        print(f"tidegate at {node}: status {status}")
    return FAIL_MODE == "open", {}


def handler(event, _context):
    allowed, context = check(event)
    if event.get("version") == "2.0":
        return {"isAuthorized": allowed, "context": context}
    effect = "Allow" if allowed else "Deny"
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": event["methodArn"]}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    return {"principalId": "client", "policyDocument": policy, "context": context}
